"""The public panoptic data sets by name."""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from vit_adapter.data.panoptic.sets.definition import PanopticSet

# Each is a module of this package with a DATA_SET.
_NAMES = ("ade20k", "cityscapes", "coco")

SETS: Mapping[str, PanopticSet] = MappingProxyType(
    {f"{name}_panoptic": import_module(f"{__package__}.{name}").DATA_SET for name in _NAMES}
)
"""Name -> data set, for registration and for ``tools/prepare_dataset.py``."""
