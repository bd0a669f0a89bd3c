"""The training and test augmentations of ViT-Adapter's detectors, as targets for LazyConfigs.

Each function returns a list for ``DatasetMapper``, so a config can say
``augmentations=L(coco_3x_train)()``. Sizes are in pixels. Detectron2 resizes with Pillow, which
averages when it shrinks; the original's OpenCV does not average, so images differ slightly.

The crops keep whole polygons, moved to the frame of the crop. Polygons are clipped when they are
drawn, and boxes by the mapper. An instance is therefore kept as in the original: as long as its
clipped box has an area (bit masks: as long as one of its pixels is left). The masks equal those of
clipped polygons up to the rounding of edges, and Shapely is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, PadTransform, TransformList

COCO_SHORT_EDGES: tuple[int, ...] = tuple(range(480, 800 + 1, 32))  # 11 sizes
COCO_MAX_SIZE = 1333
COCO_TEST_SHORT_EDGE = 800

_PRE_CROP_SHORT_EDGES = (400, 500, 600)
_PRE_CROP_RANGE = (384, 600)
_FINAL_CROP = (1024, 1024)
_JITTER = (0.1, 2.0)  # factors of the size
_GREY = 128


class PolygonMovingCrop(CropTransform):
    """A crop that moves polygons without cutting them; all other data are cropped as usual."""

    def apply_polygons(self, polygons: list[np.ndarray]) -> list[np.ndarray]:
        """Return the polygons, each (number of points, 2) as (x, y), in the frame of the crop."""
        return [self.apply_coords(polygon) for polygon in polygons]


class RandomCrop(T.RandomCrop):
    """Detectron2's ``RandomCrop`` with whole polygons; a crop may contain no instance."""

    def get_transform(self, image: np.ndarray) -> CropTransform:
        """Return the crop for an image of shape (H, W) or (H, W, channels)."""
        crop = super().get_transform(image)
        height, width = image.shape[:2]
        return PolygonMovingCrop(crop.x0, crop.y0, crop.w, crop.h, width, height)


class PadToSquare(T.Augmentation):
    """Pads the right and the bottom with grey (128); padding has no label.

    In an :class:`vit_adapter.data.aug_input.AugInput`, floats are padded with their mean.

    Args:
        size: least height and width of the result.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def get_transform(self, image: np.ndarray) -> PadTransform:
        """Return the padding for an image of shape (H, W, channels)."""
        height, width = image.shape[:2]
        right, bottom = max(0, self.size - width), max(0, self.size - height)
        return PadTransform(0, 0, right, bottom, width, height, pad_value=_GREY)


class RandomBranch(T.Augmentation):
    """Applies one of several lists of augmentations, each with the same probability.

    Args:
        branches: the lists to choose from; an empty list changes nothing.

    Raises:
        ValueError: there are no branches.
    """

    def __init__(self, *, branches: Sequence[Sequence[T.Augmentation]]) -> None:
        super().__init__()
        if not branches:
            raise ValueError("RandomBranch needs at least one branch to choose from.")
        self.branches = [T.AugmentationList(branch) for branch in branches]

    def __call__(self, aug_input: T.AugInput) -> TransformList:
        """Augment ``aug_input`` in place and return what was applied."""
        return self.branches[np.random.randint(len(self.branches))](aug_input)


def flip_and_resize(
    short_edges: Sequence[int] = (COCO_TEST_SHORT_EDGE,), max_size: int = COCO_MAX_SIZE
) -> list[T.Augmentation]:
    """Mirror half of the images, then resize; also used for the quick start and small data sets.

    Args:
        short_edges: lengths of the short side, one of which is drawn for each image.
        max_size: maximum length of the long side, which takes precedence.
    """
    return [T.RandomFlip(), *resize(short_edges, max_size)]


def resize(
    short_edges: Sequence[int] = (COCO_TEST_SHORT_EDGE,), max_size: int = COCO_MAX_SIZE
) -> list[T.Augmentation]:
    """Resize and keep the aspect ratio; the defaults are those for testing on COCO.

    Args:
        short_edges: lengths of the short side, one of which is drawn for each image.
        max_size: maximum length of the long side, which takes precedence.
    """
    return [T.ResizeShortestEdge(list(short_edges), max_size, sample_style="choice")]


def coco_1x_train() -> list[T.Augmentation]:
    """Augment for the 1x schedule: mirror half of the images, resize to 800/1333."""
    return flip_and_resize()


def coco_3x_train() -> list[T.Augmentation]:
    """Augment for the 3x+MS schedule: as for panoptic data, and a last crop.

    The images of ``coco_panoptic_train`` end with a crop to at most 1024 x 1024, which may contain
    no instance.
    """
    return [*coco_panoptic_train(), RandomCrop("absolute", _FINAL_CROP)]


def coco_panoptic_train() -> list[T.Augmentation]:
    """Augment like DETR, as for the published panoptic model.

    Mirror half of the images. Then resize one half to a short side of 480, 512, ... or 800. The
    other half is first resized to a short side of 400, 500 or 600 and cropped to a height and a
    width, each uniform in 384..600 (both limits capped by the image), then resized like the first
    half. The long side never exceeds 1333. The crop may contain no instance.
    """
    multi_scale = resize(COCO_SHORT_EDGES)
    return [
        T.RandomFlip(),
        RandomBranch(
            branches=[
                multi_scale,
                [
                    *resize(_PRE_CROP_SHORT_EDGES),
                    RandomCrop("absolute_range", _PRE_CROP_RANGE),
                    *multi_scale,
                ],
            ]
        ),
    ]


def coco_htc_train(
    short_edges: Sequence[int] = (400, 1400), max_size: int = 1600
) -> list[T.Augmentation]:
    """Augment for the hybrid task cascade: mirror half of the images, resize within a wide range.

    Args:
        short_edges: shortest and longest length of the short side, any of which may be drawn.
        max_size: maximum length of the long side, which takes precedence.
    """
    return [T.RandomFlip(), T.ResizeShortestEdge(list(short_edges), max_size, sample_style="range")]


def coco_lsj_train(size: int = 1024) -> list[T.Augmentation]:
    """Augment with large-scale jitter: mirror half of the images, resize in a wide range, crop.

    The image is resized to fit into a square of ``size`` times a factor uniform in 0.1..2, then
    cropped to at most ``size`` x ``size``, which may contain no instance. The position of the crop
    is drawn for each axis, while Detectron2's ``FixedSizeCrop`` draws one for both. For boxes of
    what is left of the masks, the mapper needs ``recompute_boxes`` and masks as "bitmask".

    Args:
        size: side of the crop.
    """
    return [
        T.RandomFlip(),
        T.ResizeScale(*_JITTER, size, size),
        RandomCrop("absolute", (size, size)),
    ]


def large_scale_jitter(image_size: int = 1024) -> list[T.Augmentation]:
    """Augment as ``coco_lsj_train``, and pad to a square, as for Mask2Former.

    Args:
        image_size: side of the square that every image becomes.
    """
    return [*coco_lsj_train(image_size), PadToSquare(image_size)]


def coco_test() -> list[T.Augmentation]:
    """Resize for testing: short side 800, long side at most 1333."""
    return resize()
