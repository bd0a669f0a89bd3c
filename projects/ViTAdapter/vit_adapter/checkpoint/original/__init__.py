"""Bridge to the original code base, czczup/ViT-Adapter: its classes, arguments and state dicts."""

from vit_adapter.checkpoint.original.backbones import build_backbone
from vit_adapter.checkpoint.original.state_dict import (
    Conversion,
    convert,
    convert_state_dict,
    revert,
    revert_state_dict,
    take_moving_averages,
)

__all__ = [
    "Conversion",
    "build_backbone",
    "convert",
    "convert_state_dict",
    "revert",
    "revert_state_dict",
    "take_moving_averages",
]
