"""The confusion matrix of a semantic model, as a file and as a picture.

Shapes: K classes.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vit_adapter.utils.atomic import atomic_open

__all__ = ["draw_confusion_matrix", "row_percent", "write_confusion_matrix"]

NAME = "confusion_matrix"

_MAX_NUMBERS = 20
"""Cells hold their numbers up to so many classes."""

_MIN_SIDE, _SIDE_PER_CLASS, _MAX_SIDE = 5.0, 0.35, 24.0  # inches
_DPI = 100


def write_confusion_matrix(counts: np.ndarray, names: Sequence[str], folder: Path) -> Image.Image:
    """Write ``confusion_matrix.json`` and ``confusion_matrix.png``.

    The JSON file holds ``classes``, the names of the classes, and ``pixels``: for each labelled
    class a list of how many of its pixels are predicted as each class.

    Args:
        counts: (K, K) integers; rows are labelled classes, columns are predicted classes.
        names: of the K classes.
        folder: created if it does not exist.

    Returns:
        The picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_open(folder / f"{NAME}.json") as stream:
        json.dump({"classes": list(names), "pixels": counts.tolist()}, stream)
        stream.write("\n")
    picture = draw_confusion_matrix(counts, names)
    with atomic_open(folder / f"{NAME}.png", "wb") as stream:
        picture.save(stream, format="PNG")
    return picture


def row_percent(counts: np.ndarray) -> np.ndarray:
    """Return the percentages (K, K) of each row; NaN in a row without pixels."""
    labelled = counts.sum(axis=1, keepdims=True)
    percent = np.full(counts.shape, np.nan)
    np.divide(100 * counts, labelled, out=percent, where=labelled > 0)
    return percent


@matplotlib.rc_context({"text.parse_math": False})  # class names such as "$5$" are not formulas
def draw_confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> Image.Image:
    """Draw the matrix in percent of each row, that is of the labelled pixels of a class.

    A row without pixels is grey.

    Args:
        counts, names: as for :func:`write_confusion_matrix`.

    Returns:
        RGB picture.
    """
    percent = row_percent(counts)
    side = min(max(_MIN_SIDE, 2 + _SIDE_PER_CLASS * len(names)), _MAX_SIDE)
    figure = Figure(figsize=(side, side), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("lightgrey")  # shows where there is no number
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    font = min(9.0, 72 * 0.6 * side / len(names))
    positions = range(len(names))
    axes.set_xticks(positions, names, rotation=90, fontsize=font)
    axes.set_yticks(positions, names, fontsize=font)
    axes.set(xlabel="predicted", ylabel="labelled", title="percent of the labelled pixels")
    if len(names) <= _MAX_NUMBERS:
        for (row, column), value in np.ndenumerate(percent):
            if not np.isnan(value):
                color = "white" if value > 50 else "black"
                style: dict[str, Any] = dict(ha="center", va="center", fontsize=font, color=color)
                axes.text(column, row, f"{value:.0f}", **style)
    with io.BytesIO() as stream:
        figure.savefig(stream, format="png")
        return Image.open(stream).convert("RGB")
