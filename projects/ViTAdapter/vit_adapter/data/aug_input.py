"""Applies Detectron2's augmentations to images of any number of channels.

Shapes: C channels, H/W image sides in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import PadTransform, Transform, TransformList
from PIL import Image

__all__ = ["AugInput"]


class AugInput(T.AugInput):
    """Detectron2's class, with other rules for float images.

    * They are resized by Pillow, like images of 8 bits. Detectron2 resizes floats by a filter that
      does not average when it shrinks.
    * Padding is the mean of each channel, because their range is not known.

    Its arguments and attributes are those of Detectron2's class.
    """

    image: np.ndarray
    boxes: np.ndarray | None
    sem_seg: np.ndarray | None

    def transform(self, tfm: Transform) -> None:
        """Transform all attributes in place."""
        self.image = _transform_image(tfm, self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)


def _transform_image(tfm: Transform, image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return tfm.apply_image(image)
    if isinstance(tfm, TransformList):
        for each in tfm.transforms:
            image = _transform_image(each, image)
        return image
    if isinstance(tfm, T.ResizeTransform):
        return _resize(image, (tfm.new_w, tfm.new_h), tfm.interp)
    if isinstance(tfm, PadTransform):
        return _pad(image, (tfm.y0, tfm.y1), (tfm.x0, tfm.x1))
    return tfm.apply_image(image)


def _resize(image: np.ndarray, size: tuple[int, int], filter_: int) -> np.ndarray:
    """Resize an image (H, W, C) to (width, height), channel by channel."""
    planes = np.moveaxis(image.astype(np.float32, copy=False), 2, 0)
    pictures = (Image.fromarray(np.ascontiguousarray(plane)) for plane in planes)
    return np.stack([np.asarray(each.resize(size, filter_)) for each in pictures], axis=-1)


def _pad(image: np.ndarray, rows: Sequence[int], columns: Sequence[int]) -> np.ndarray:
    """Pad an image (H, W, C) with the mean of each channel."""
    means = image.mean(axis=(0, 1), dtype=np.float64)
    planes = zip(np.moveaxis(image, 2, 0), means, strict=True)
    padding = (tuple(rows), tuple(columns))
    return np.stack([np.pad(plane, padding, constant_values=mean) for plane, mean in planes], -1)
