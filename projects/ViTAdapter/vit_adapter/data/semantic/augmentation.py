"""The training and test augmentations of ViT-Adapter's segmentors, as targets for LazyConfigs.

They follow the original: resize by a random ratio, crop such that no class fills the crop, mirror,
distort the colours. The mapper pads to the size of the crop, because padded pixels must be zero
after the model's normalisation. Sizes are in pixels. Detectron2 resizes with Pillow, which averages
when it shrinks; the original's OpenCV does not, so images differ slightly.

Scales are pairs (long, short), as in the original: the limits of an image's longer and shorter
side, of which the stricter one decides.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform, Transform

from vit_adapter.data.semantic.sets.label_set import IGNORE_LABEL

_logger = logging.getLogger(__name__)

_HUE_STEPS = 180  # OpenCV's hue of 8-bit images has steps of 2 degrees


class ResizeToScale(T.Augmentation):
    """Resizes to the largest size within a scale times a random ratio, keeping the aspect ratio.

    Args:
        scale: limits of the longer and the shorter side, in any order.
        ratio_range: lowest and highest factor of the scale, drawn uniformly for each image.

    Raises:
        ValueError: ``scale`` is not two positive limits, or ``ratio_range`` is not a range.
    """

    def __init__(self, *, scale: Sequence[int], ratio_range: Sequence[float] = (1.0, 1.0)) -> None:
        super().__init__()
        if len(scale) != 2 or min(scale) < 1:
            raise ValueError(f"scale must be two lengths in pixels (long, short), got {scale}.")
        if len(ratio_range) != 2 or not 0 < ratio_range[0] <= ratio_range[1]:
            raise ValueError(f"ratio_range must be (lowest, highest) above 0, got {ratio_range}.")
        self.scale = tuple(sorted(scale, reverse=True))
        self.ratio_range = (ratio_range[0], ratio_range[1])

    def get_transform(self, image: np.ndarray) -> T.ResizeTransform:
        """Return the resizing of an image of shape (H, W) or (H, W, channels)."""
        ratio = np.random.uniform(*self.ratio_range)
        long, short = (int(limit * ratio) for limit in self.scale)
        height, width = image.shape[:2]
        factor = min(long / max(height, width), short / min(height, width))
        new = (max(1, int(side * factor + 0.5)) for side in (height, width))
        return T.ResizeTransform(height, width, *new)


class ResizeToMultiple(T.Augmentation):
    """Stretches each side to the next multiple of a number, as the original does for testing.

    Args:
        divisor: the number, at least 1.
    """

    def __init__(self, divisor: int) -> None:
        super().__init__()
        if divisor < 1:
            raise ValueError(f"divisor must be at least 1, got {divisor}.")
        self.divisor = divisor

    def get_transform(self, image: np.ndarray) -> Transform:
        """Return the resizing of an image of shape (H, W) or (H, W, channels)."""
        height, width = image.shape[:2]
        new = tuple(math.ceil(side / self.divisor) * self.divisor for side in (height, width))
        if new == (height, width):
            return NoOpTransform()
        return T.ResizeTransform(height, width, *new)


class PhotometricDistortion(T.Augmentation):
    """Changes brightness, contrast, saturation and hue of RGB images, each with probability 1/2.

    Brightness comes first; contrast comes next or last, equally often. Colours are rounded down to
    8 bits after each step, as in the original.

    Args:
        brightness: largest value that is added or subtracted, on the 0 to 255 scale.
        contrast: lowest and highest factor of all values.
        saturation: lowest and highest factor of the saturation.
        hue: largest shift of the hue, in units of 2 degrees: from -hue to hue - 1.
    """

    def __init__(
        self,
        *,
        brightness: float = 32.0,
        contrast: Sequence[float] = (0.5, 1.5),
        saturation: Sequence[float] = (0.5, 1.5),
        hue: int = 18,
    ) -> None:
        super().__init__()
        self.brightness = brightness
        self.contrast = (contrast[0], contrast[1])
        self.saturation = (saturation[0], saturation[1])
        self.hue = hue

    def get_transform(self, image: np.ndarray) -> PhotometricTransform:
        """Return a distortion, which needs a uint8 RGB image but does not depend on it."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"Distorting colours needs uint8 images (H, W, 3), got {image.dtype} "
                f"{image.shape}. Use image_format RGB."
            )
        draw = np.random
        brightness = draw.uniform(-self.brightness, self.brightness) if _chance() else 0.0
        contrast_last = not _chance()
        contrast = draw.uniform(*self.contrast) if _chance() else 1.0
        saturation = draw.uniform(*self.saturation) if _chance() else 1.0
        hue = draw.randint(-self.hue, self.hue) if _chance() and self.hue else 0
        return PhotometricTransform(
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            hue=hue,
            contrast_last=contrast_last,
        )


class PhotometricTransform(Transform):
    """One distortion of colours; coordinates and labels stay as they are.

    Args:
        brightness: added to all values; 0 for none.
        contrast: factor of all values; 1 for none.
        saturation: factor of the saturation; 1 for none.
        hue: added to the hue, in units of 2 degrees; 0 for none.
        contrast_last: whether contrast comes after the hue, not after the brightness.
    """

    def __init__(
        self,
        *,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: int,
        contrast_last: bool,
    ) -> None:
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Return the distorted image; ``img`` is (H, W, 3), RGB, uint8, and is not changed."""
        img = _scale_and_shift(img, shift=self.brightness)
        if not self.contrast_last:
            img = _scale_and_shift(img, factor=self.contrast)
        if self.saturation != 1.0 or self.hue:
            img = self._turn_colors(img)
        if self.contrast_last:
            img = _scale_and_shift(img, factor=self.contrast)
        return img

    def _turn_colors(self, img: np.ndarray) -> np.ndarray:
        """Change saturation and hue one after the other, each in HSV."""
        if self.saturation != 1.0:
            hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV)
            hsv[..., 1] = _scale_and_shift(hsv[..., 1], factor=self.saturation)
            img = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if self.hue:
            hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0].astype(np.int64) + self.hue) % _HUE_STEPS
            img = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        return img

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Return ``coords``: nothing moves."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Return ``segmentation``: labels are not colours."""
        return segmentation


def semantic_train(
    *,
    scale: Sequence[int],
    crop_size: Sequence[int],
    ratio_range: Sequence[float] = (0.5, 2.0),
    max_class_share: float = 0.75,
) -> list[T.Augmentation]:
    """Augment for training.

    Args:
        scale: (long, short), see :class:`ResizeToScale`.
        crop_size: (height, width) of the crop; the mapper pads images that are smaller.
        ratio_range: lowest and highest factor of the scale.
        max_class_share: a crop is drawn again if one class has at least this share of the pixels
            that count, or if it has a single class; the tenth crop is used in any case.
    """
    return [
        ResizeToScale(scale=scale, ratio_range=ratio_range),
        T.RandomCrop_CategoryAreaConstraint(
            "absolute", tuple(crop_size), max_class_share, IGNORE_LABEL
        ),
        T.RandomFlip(),
        PhotometricDistortion(),
    ]


def semantic_test(
    *, scale: Sequence[int], size_divisor: int = 32, several_scales: bool = False
) -> list[T.Augmentation]:
    """Resize for testing: to the scale, keeping the aspect ratio, then up to multiples.

    Args:
        scale: (long, short), see :class:`ResizeToScale`.
        size_divisor: divisor of both sides; 1 keeps the aspect ratio.
        several_scales: whether images are not resized here, because views at several scales are
            made from them later.
    """
    if several_scales:
        return []
    return [ResizeToScale(scale=scale), ResizeToMultiple(size_divisor)]


def without_colours(augmentations: Sequence[T.Augmentation]) -> list[T.Augmentation]:
    """Leave out distortions of colours, which only images in 8-bit RGB have; log it."""
    kept = [each for each in augmentations if not isinstance(each, PhotometricDistortion)]
    if len(kept) < len(augmentations):
        _logger.info("PhotometricDistortion is left out: it is for images in 8-bit RGB only.")
    return kept


def _chance() -> bool:
    """Toss a coin."""
    return bool(np.random.randint(2))


def _scale_and_shift(values: np.ndarray, *, factor: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Return ``values * factor + shift`` in uint8, clipped and rounded down."""
    if factor == 1.0 and shift == 0.0:
        return values
    return np.clip(values.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)
