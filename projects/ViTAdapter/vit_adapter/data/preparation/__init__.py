"""Converts official downloads of semantic segmentation data into what this project reads."""

from vit_adapter.data.preparation.command import run
from vit_adapter.data.preparation.convert import Conversion, Part, convert_part
from vit_adapter.data.preparation.inspect import PreparationError, find_problems
from vit_adapter.data.preparation.sets import SETS

__all__ = [
    "SETS",
    "Conversion",
    "Part",
    "PreparationError",
    "convert_part",
    "find_problems",
    "run",
]
