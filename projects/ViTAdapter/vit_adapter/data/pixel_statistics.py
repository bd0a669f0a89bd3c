"""Mean and standard deviation of each channel of the images of a data set, as they are stored.

Shapes: C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vit_adapter.data.channel_files import channels_last
from vit_adapter.data.image_io import read_stored

__all__ = ["PixelStatistics", "measure_pixels"]


class PixelStatistics(NamedTuple):
    """Statistics in the units of the files.

    Attributes:
        mean: mean of each channel (C,), with six digits.
        std: standard deviation of each channel (C,), with six digits; 1 for a constant channel.
        pixel_type: NumPy's name of the type of all images, such as "uint16".
        constant: the channels, from 0, that have the same value everywhere.
    """

    mean: list[float]
    std: list[float]
    pixel_type: str
    constant: list[int]


def measure_pixels(
    records: Sequence[Mapping[str, Any]], channels: int, *, pixel_type: str | None = None
) -> PixelStatistics:
    """Read images and compute their statistics; every pixel has the same weight.

    Args:
        records: at least one, with ``file_name`` and perhaps ``height`` and ``width``.
        channels: number of channels that every image must have.
        pixel_type: the type that all images must have; by default that of the first.

    Raises:
        FileNotFoundError: an image does not exist.
        ValueError: an image cannot be read, has another number of channels or another type, or has
            values that are not finite; the message names it.
    """
    first = "the training images" if pixel_type else str(records[0]["file_name"])
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    shift: np.ndarray | None = None
    for record in records:
        size = (record["height"], record["width"]) if "height" in record else None
        pixels = read_stored(record["file_name"], size=size)
        pixel_type = pixel_type or pixels.dtype.name
        if pixels.dtype.name != pixel_type:
            raise ValueError(
                f"{record['file_name']} has pixels of type {pixels.dtype.name} and shape "
                f"{pixels.shape}, but {first} {'have' if ' ' in first else 'has'} {pixel_type}. "
                "Values of different types seldom have the same unit: convert all images to one."
            )
        image = channels_last(pixels, channels, record["file_name"]).reshape(-1, channels)
        # Shifted, because squares of large values with a small spread would lose their digits.
        shift = image.mean(axis=0, dtype=np.float64) if shift is None else shift
        shifted = image - shift
        count += len(image)
        total += shifted.sum(axis=0)
        squares += (shifted**2).sum(axis=0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    std_is_zero = std <= np.abs(shift + mean) * np.finfo(np.float32).eps
    std[std_is_zero] = 1
    return PixelStatistics(
        [float(f"{value:.6g}") for value in shift + mean],
        [float(f"{value:.6g}") for value in std],
        pixel_type,
        np.flatnonzero(std_is_zero).tolist(),
    )
