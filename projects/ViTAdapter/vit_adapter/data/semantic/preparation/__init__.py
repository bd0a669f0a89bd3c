"""Converts official downloads of semantic segmentation data for this project."""

from vit_adapter.data.semantic.preparation.convert import convert_split, read_official
from vit_adapter.data.semantic.preparation.inspect import PreparationError, find_problems
from vit_adapter.data.semantic.preparation.prepare import prepare

__all__ = [
    "PreparationError",
    "convert_split",
    "find_problems",
    "prepare",
    "read_official",
]
