"""Objects that are moved a little within their image, as InstaBoost does (arXiv 1908.07801).

Frame: coordinates are (x, y) in pixels, and pixel i covers i to i + 1.

Shapes: H/W image sides, P points of a polygon.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.structures.masks import polygons_to_bitmask
from pycocotools import mask as mask_util
from scipy.sparse.csgraph import connected_components

from vit_adapter.data.instances.coco_values import flag

_Annotation = dict[str, Any]
_INPAINT_RADIUS = 5  # px
_EDGE_SIGMA = 1.0  # px; softens the edges of pasted objects
_MARGIN = 6  # px around an object for its soft edge
_COLOR_RANGE = (0.8, 1.2)


class InstanceJitter:
    """Cuts out all objects of an image, fills the holes, and pastes the objects at new places.

    Each object is scaled, turned and shifted by random amounts; objects whose boxes overlap move
    together. An object that touches a side of the image keeps touching it. Masks and boxes follow.
    Crowds stay as they are, and so do label maps.

    The defaults are those of the published hybrid task cascade. It cuts objects out by image
    matting, where this class softens the edges of their masks.

    Args:
        probability: share of the images that are changed, in [0, 1].
        scale: lowest and highest factor of the size.
        shift: highest shift relative to width and height.
        angle: highest rotation in degrees, in both directions.
        color_probability: share of the changed images whose objects also change in brightness,
            contrast and saturation, in [0, 1].

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        *,
        probability: float = 0.5,
        scale: Sequence[float] = (0.8, 1.2),
        shift: float = 1 / 15,
        angle: float = 1.0,
        color_probability: float = 0.5,
    ) -> None:
        if not (0 <= probability <= 1 and 0 <= color_probability <= 1):
            raise ValueError(
                "probability and color_probability must be in [0, 1], got "
                f"{probability} and {color_probability}."
            )
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] or shift < 0 or angle < 0:
            raise ValueError(
                "scale must be (lowest, highest) above 0, and shift and angle at least 0, got "
                f"{scale}, {shift} and {angle}."
            )
        self.probability = probability
        self.scale = (scale[0], scale[1])
        self.shift = shift
        self.angle = angle
        self.color_probability = color_probability
        changes = (T.RandomBrightness, T.RandomContrast, T.RandomSaturation)
        self._colors = T.AugmentationList([change(*_COLOR_RANGE) for change in changes])

    def __call__(
        self, image: np.ndarray, annotations: list[_Annotation]
    ) -> tuple[np.ndarray, list[_Annotation]]:
        """Return an image with its annotations, changed or as they are.

        Args:
            image: (H, W, 3) uint8; not changed.
            annotations: in Detectron2's format, with masks as polygons or run-length codes; not
                changed.
        """
        moving = [i for i, each in enumerate(annotations) if flag(each.get("iscrowd")) != 1]
        if not moving or np.random.uniform() >= self.probability:
            return image, annotations
        size = image.shape[:2]
        result = list(annotations)
        objects = self._change_colors(image)
        boxes = np.stack([_box(annotations[i]) for i in moving])
        holes = np.zeros(size, np.uint8)
        for i, box in zip(moving, boxes, strict=True):
            window = _Window.around(box.reshape(2, 2), size)
            holes[window.slices] |= _union([annotations[i]], window)
        canvas = cv2.inpaint(image, holes, _INPAINT_RADIUS, cv2.INPAINT_NS)
        for group in _overlapping(boxes):
            box = np.concatenate([boxes[group, :2].min(0), boxes[group, 2:].max(0)])
            matrix = self._draw_matrix(box, size)
            members = [moving[i] for i in group]
            _paste(canvas, objects, [annotations[i] for i in members], matrix, box)
            for i in members:
                result[i] = _move(annotations[i], matrix, size)
        return canvas, result

    def _change_colors(self, image: np.ndarray) -> np.ndarray:
        if np.random.uniform() >= self.color_probability:
            return image
        colors = T.AugInput(image)
        self._colors(colors)
        return colors.image

    def _draw_matrix(self, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return a random (2, 3) matrix that maps old to new coordinates.

        Args:
            box: (x1, y1, x2, y2) around the objects.
            size: (height, width) of the image.
        """
        sides = np.array([size[1], size[0]])
        at_start, at_end = box[:2] < 1, box[2:] > sides - 1
        # A side of the image that is touched is the fixed point of the scaling.
        center = (box[:2] + box[2:]) / 2
        fixed = np.where(at_start & ~at_end, 0, np.where(at_end & ~at_start, sides, center))
        shift = np.random.uniform(-self.shift, self.shift, 2) * (box[2:] - box[:2])
        shift[at_start | at_end] = 0
        angle = np.deg2rad(np.random.uniform(-self.angle, self.angle))
        scale = np.random.uniform(*self.scale)
        cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
        linear = np.array([[cosine, -sine], [sine, cosine]])
        return np.column_stack([linear, fixed + shift - linear @ fixed])


class _Window(NamedTuple):
    """A part of an image, which may be empty.

    Masks are read and blurred only in the windows of their objects: whole images would take minutes
    if they are large and have hundreds of objects.

    Attributes:
        start: (x, y) of its first pixel.
        end: (x, y) of the pixel after its last one.
    """

    start: np.ndarray
    end: np.ndarray

    @classmethod
    def around(cls, points: np.ndarray, size: tuple[int, int]) -> _Window:
        """The part of an image of this (height, width) that holds points (P, 2) and a margin."""
        start = np.floor(points.min(0)).astype(int) - _MARGIN
        end = np.ceil(points.max(0)).astype(int) + _MARGIN
        return cls(np.clip(start, 0, size[::-1]), np.clip(end, 0, size[::-1]))

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.start[1], self.end[1]), slice(self.start[0], self.end[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as OpenCV expects them."""
        return tuple((self.end - self.start).tolist())


def _union(annotations: Sequence[_Annotation], window: _Window) -> np.ndarray:
    """Return the pixels of all masks in a window (its height, its width), uint8, 0 or 1."""
    width, height = window.size
    union = np.zeros((height, width), np.uint8)
    if not union.size:
        return union
    for annotation in annotations:  # one at a time: an image may have thousands of objects
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, dict):
            union |= mask_util.decode(segmentation)[window.slices]
        else:
            points = [np.reshape(polygon, (-1, 2)) - window.start for polygon in segmentation]
            union |= polygons_to_bitmask([p.flatten() for p in points], height, width)
    return union


def _box(annotation: _Annotation) -> np.ndarray:
    box = [float(value) for value in annotation["bbox"]]
    return np.array(BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYXY_ABS))


def _overlapping(boxes: np.ndarray) -> list[np.ndarray]:
    """Return the indexes of boxes (N, 4) in groups that overlap directly or in a chain."""
    starts, ends = boxes[:, :2], boxes[:, 2:]
    meet = ((starts[:, None] < ends[None]) & (starts[None] < ends[:, None])).all(-1)
    count, labels = connected_components(meet, directed=False)
    return [np.flatnonzero(labels == label) for label in range(count)]


def _on_grid(
    matrix: np.ndarray,
    *,
    source: Sequence[int] | np.ndarray = (0, 0),
    target: Sequence[int] | np.ndarray = (0, 0),
) -> np.ndarray:
    """Return a matrix for OpenCV, where pixel i has its centre at i.

    Args:
        matrix: (2, 3).
        source: (x, y) of the first pixel of the input.
        target: (x, y) of the first pixel of the output.
    """
    linear, half = matrix[:, :2], np.full(2, 0.5)
    return np.column_stack([linear, matrix[:, 2] + linear @ (source + half) - half - target])


def _paste(
    canvas: np.ndarray,
    image: np.ndarray,
    annotations: Sequence[_Annotation],
    matrix: np.ndarray,
    box: np.ndarray,
) -> None:
    """Copy objects of an image to their new place on the canvas, both (H, W, 3).

    Args:
        box: (x1, y1, x2, y2) around the objects, before they move.
    """
    size = canvas.shape[:2]
    corners = np.array([[x, y] for x in box[::2] for y in box[1::2]])
    source = _Window.around(corners, size)
    target = _Window.around(corners @ matrix[:, :2].T + matrix[:, 2], size)
    if min(*source.size, *target.size) < 1:
        return
    mask = _union(annotations, source).astype(np.float32)
    opacity = cv2.GaussianBlur(mask, (0, 0), _EDGE_SIGMA)
    onto_target = _on_grid(matrix, source=source.start, target=target.start)
    opacity = cv2.warpAffine(opacity, onto_target, target.size)[..., None]
    # Without reflection an object would get a dark edge where it touches a side of the image.
    moved = cv2.warpAffine(
        image,
        _on_grid(matrix, target=target.start),
        target.size,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    region = canvas[target.slices]
    region[:] = np.rint(region * (1 - opacity) + moved * opacity).astype(np.uint8)


def _move(annotation: _Annotation, matrix: np.ndarray, size: tuple[int, int]) -> _Annotation:
    """Return a copy of an annotation with its mask and its box (x1, y1, x2, y2) moved."""
    annotation = copy.copy(annotation)
    if isinstance(annotation["segmentation"], dict):
        mask = mask_util.decode(annotation["segmentation"])
        mask = cv2.warpAffine(mask, _on_grid(matrix), size[::-1], flags=cv2.INTER_NEAREST)
        annotation["segmentation"] = mask_util.encode(np.asfortranarray(mask))
        x, y, width, height = mask_util.toBbox(annotation["segmentation"]).tolist()
        box = [x, y, x + width, y + height]
    else:
        polygons = [
            np.reshape(polygon, (-1, 2)) @ matrix[:, :2].T + matrix[:, 2]
            for polygon in annotation["segmentation"]
        ]
        points = np.concatenate(polygons)
        box = [*points.min(0).tolist(), *points.max(0).tolist()]
        annotation["segmentation"] = [polygon.flatten().tolist() for polygon in polygons]
    annotation.update(bbox=box, bbox_mode=BoxMode.XYXY_ABS)
    return annotation
