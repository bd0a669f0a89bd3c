"""Counts of each evaluated image, from which two results are compared.

Shapes: N images, K classes, C counts.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vit_adapter.utils.atomic import atomic_open

__all__ = ["ImageCounts", "counts_file", "read_counts", "write_counts"]


class ImageCounts(NamedTuple):
    """What the metrics of a set of images are computed from.

    Attributes:
        images: N names, sorted.
        classes: K names.
        counts: (N, K, C). For semantic segmentation, the pixels that are right, labelled and
            predicted; for panoptic segmentation, see
            :func:`vit_adapter.evaluation.panoptic_quality.count_segments`.
    """

    images: list[str]
    classes: list[str]
    counts: np.ndarray


def counts_file(folder: Path, task: str) -> Path:
    """Return the path of the counts for a task such as "sem_seg"."""
    return folder / f"per_image_{task}.npz"


def write_counts(path: Path, counts: Mapping[str, np.ndarray], classes: Sequence[str]) -> None:
    """Write the counts (K, C) of each image; the folder is created if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = sorted(counts)
    stacked = np.stack([counts[image] for image in images]) if images else np.zeros((0, 0, 0))
    with atomic_open(path, "wb") as stream:
        np.savez_compressed(
            stream, images=np.array(images), classes=np.array(list(classes)), counts=stacked
        )


def read_counts(path: Path) -> ImageCounts:
    """Read what :func:`write_counts` has written.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            images, classes, counts = (content[k] for k in ("images", "classes", "counts"))
    except (KeyError, EOFError, zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path} is damaged; evaluate again: {error}") from error
    return ImageCounts(images.tolist(), classes.tolist(), counts)
