"""Converts official downloads to COCO's panoptic format."""

from vit_adapter.data.panoptic.preparation.convert import convert_split
from vit_adapter.data.panoptic.preparation.prepare import prepare

__all__ = ["convert_split", "prepare"]
