"""The public data sets by name."""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from vit_adapter.data.semantic.sets.definition import DataSet

# Each is a module of this package with a DATA_SET.
_NAMES = (
    "ade20k",
    "cityscapes",
    "coco_stuff_10k",
    "coco_stuff_164k",
    "pascal_context",
    "mapillary",
)

SETS: Mapping[str, DataSet] = MappingProxyType(
    {name: import_module(f"{__package__}.{name}").DATA_SET for name in _NAMES}
)
"""Name -> data set, for registration and for ``tools/prepare_dataset.py``."""
