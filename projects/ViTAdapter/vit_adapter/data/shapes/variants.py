"""The generated shapes with other pixels than 8-bit RGB: the same images and the same labels.

Names in the catalogs, for ``<split>`` in ``train`` and ``val``:

==============================  =================================================================
``shapes_grey8_<split>``        PNG of one channel and 8 bits: brightness
``shapes_grey16_<split>``       PNG of one channel and 16 bits, of which 12 are used, as by many
                                cameras: brightness 0 to 4080
``shapes_5_channels_<split>``   TIFF of five channels and 16 bits in planes: red, green and blue
                                (0 to 4080), the inverted brightness, 20000 + 8 (red - blue)
==============================  =================================================================

The files are made from those of ``shapes_<split>`` when they are first used, in folders beside
them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from detectron2.data import DatasetCatalog

from vit_adapter.data.catalog import register
from vit_adapter.data.image_io import read_image
from vit_adapter.data.shapes import metadata
from vit_adapter.utils.atomic import atomic_folder

_STEP = 16  # 8 bits to 12 bits


class _Variant(NamedTuple):
    suffix: str
    write: Callable[[Path, np.ndarray], None]


def register_variants(root: Path, split: str) -> None:
    """Register the names that this module lists for one split of the shapes in ``root``."""
    for name, variant in _VARIANTS.items():
        folder = root / f"{split}_{name}"
        load = partial(_load, f"shapes_{split}", folder, variant)
        described = {**metadata.instance_metadata(root, split), "image_root": str(folder)}
        register(f"shapes_{name}_{split}", load, **described)


def _load(source: str, folder: Path, variant: _Variant) -> list[dict[str, Any]]:
    records = copy.deepcopy(DatasetCatalog.get(source))
    files = [Path(record["file_name"]) for record in records]
    if not folder.exists():
        try:
            with atomic_folder(folder) as temporary:
                for file in files:
                    target = temporary / f"{file.stem}{variant.suffix}"
                    variant.write(target, read_image(file, "RGB").astype(np.float64))
        except OSError:  # another process may have been faster
            if not folder.exists():
                raise
    for record, file in zip(records, files, strict=True):
        record["file_name"] = str(folder / f"{file.stem}{variant.suffix}")
    return records


def _brightness(rgb: np.ndarray) -> np.ndarray:
    """Return (H, W), 0 to 4080, of (H, W, 3), 0 to 255."""
    return rgb @ (0.299, 0.587, 0.114) * _STEP


def _write_grey8(path: Path, rgb: np.ndarray) -> None:
    cv2.imwrite(str(path), np.rint(_brightness(rgb) / _STEP).astype(np.uint8))


def _write_grey16(path: Path, rgb: np.ndarray) -> None:
    cv2.imwrite(str(path), np.rint(_brightness(rgb)).astype(np.uint16))


def _write_channels(path: Path, rgb: np.ndarray) -> None:
    import tifffile  # optional

    planes = [
        *np.moveaxis(rgb * _STEP, 2, 0),
        255 * _STEP - _brightness(rgb),
        20000 + 8 * (rgb[..., 0] - rgb[..., 2]),
    ]
    tifffile.imwrite(path, np.rint(planes).astype(np.uint16), photometric="minisblack")


_VARIANTS = {
    "grey8": _Variant(".png", _write_grey8),
    "grey16": _Variant(".png", _write_grey16),
    "5_channels": _Variant(".tif", _write_channels),
}
