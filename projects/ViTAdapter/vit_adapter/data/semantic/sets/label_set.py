"""The classes of a data set: names, colours, and their values in the official label maps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

IGNORE_LABEL = 255
"""Pixels with this label do not count in losses and metrics, in every data set of this project."""


@dataclass(frozen=True)
class LabelSet:
    """The classes of a data set in the order of the model's class indices.

    Attributes:
        names: names of the classes.
        colors: RGB colours, 0 to 255, for drawing.
        values: for each class, its values in the official label maps.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    values: tuple[tuple[int, ...], ...]

    def lookup_table(self, size: int, *, offset: int = 0) -> np.ndarray:
        """Return the class index for every value of an official label map.

        Args:
            size: number of possible values, 256 for 8 bits.
            offset: added to a stored value to get the official one.

        Returns:
            (size,) uint8; ``IGNORE_LABEL`` for values without a class.
        """
        table = np.full(size, IGNORE_LABEL, dtype=np.uint8)
        for index, values in enumerate(self.values):
            table[np.subtract(values, offset)] = index
        return table


@cache
def read_label_set(name: str) -> LabelSet:
    """Read classes from ``<name>.json`` next to this module.

    The file lists them in the order of the model's class indices, each as its value in the official
    label maps, its name, and its colour in RGB.
    """
    text = resources.files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    rows = json.loads(text)
    return LabelSet(
        names=tuple(label for _, label, _ in rows),
        colors=tuple(tuple(color) for _, _, color in rows),
        values=tuple((value,) for value, _, _ in rows),
    )
