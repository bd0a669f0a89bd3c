"""Converts official downloads of semantic segmentation data into what this project reads."""

from vit_adapter.data.semantic.preparation.command import run
from vit_adapter.data.semantic.preparation.convert import Conversion, Part, convert_part
from vit_adapter.data.semantic.preparation.inspect import PreparationError, find_problems
from vit_adapter.data.semantic.preparation.sets import SETS

__all__ = [
    "SETS",
    "Conversion",
    "Part",
    "PreparationError",
    "convert_part",
    "find_problems",
    "run",
]
