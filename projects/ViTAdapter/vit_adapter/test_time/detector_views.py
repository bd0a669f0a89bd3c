"""Testing detectors at several sizes of the image and of its mirror image, or with soft-NMS.

The class wraps a detector of Detectron2 and has its inputs and outputs. It follows HTC++ of the
original, of which Detectron2's ``GeneralizedRCNNWithTTA`` is a part: that one needs a yacs config,
applies NMS in every view and again to all of them, merges by NMS only, and has no ranges of areas.

Shapes: N boxes, C channels, H/W sides of the image, M side of a predicted mask.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from vit_adapter.data.aug_input import AugInput
from vit_adapter.test_time import candidates
from vit_adapter.test_time.parts import Inputs, check_mode
from vit_adapter.test_time.suppression import Suppression

__all__ = ["DetectorViews"]

_OWN_NMS = Suppression()


class _View(NamedTuple):
    """What is kept of a view to predict masks in it."""

    features: candidates.Features
    size: tuple[int, int]
    mirrored: bool


class DetectorViews(nn.Module):
    """Finds objects in several views of an image, and merges them.

    The candidates of all views are pooled before NMS. Then NMS or soft-NMS runs once. The masks of
    the boxes that are left are predicted in every view, and their probabilities are averaged.

    With one view and NMS, the result is exactly that of the model on an image of this size.

    A detector without NMS gives its detections of each view. To merge several views of it, ``nms``
    needs an ``iou_threshold``.

    Args:
        model: a detector with Detectron2's conventions, as :mod:`vit_adapter.test_time.candidates`
            describes them; the wrapper takes over its mode.
        scales: lengths of the shorter side of the views in pixels; None for one view of the size
            that the image has. Views are made from the input image, which should be the original.
        max_size: greatest length of the longer side in pixels, which takes precedence.
        flip: whether each size is also used mirrored from left to right.
        area_ranges: for each scale the areas of the boxes that count, as (more than, at most), in
            square pixels of the original image; None for no limit. By default all boxes count.
        max_detections: largest number of instances; None for the model's own.
        nms: what happens to overlapping boxes; by default NMS as the model does it.

    Attributes:
        model: the detector that is applied to each view.

    Raises:
        TypeError: the model is of another kind.
        ValueError: a number is out of range or missing.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        scales: Sequence[int] | None = None,
        max_size: int = 1333,
        flip: bool = False,
        area_ranges: Sequence[Sequence[float | None]] | None = None,
        max_detections: int | None = None,
        nms: Suppression = _OWN_NMS,
    ) -> None:
        super().__init__()
        candidates.check_detector(model)
        _check_numbers(scales, max_size, area_ranges, max_detections)
        if candidates.nms_threshold(model) is None:
            _check_threshold(nms, num_views=len(scales or [None]) * (1 + flip))
        self.model = model
        self.scales = None if scales is None else tuple(scales)
        self.max_size = max_size
        self.flip = flip
        self.area_ranges = None if area_ranges is None else [tuple(pair) for pair in area_ranges]
        self.max_detections = max_detections
        self.nms = nms
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: Inputs) -> list[dict[str, Instances]]:
        """Detect objects.

        Args:
            batched_inputs: ``"image"`` (C, H, W), and ``"height"`` and ``"width"`` of the original
                image (by default H and W).

        Returns:
            For each image ``{"instances": Instances}`` in the frame of the original image, with
            ``pred_boxes``, ``scores``, ``pred_classes`` and, if the model predicts masks,
            ``pred_masks`` (N, height, width) bool.

        Raises:
            RuntimeError: the wrapper is in training mode.
            ValueError: an image is too long and narrow to be resized.
        """
        check_mode(self)
        return [{"instances": self._detect(inputs)} for inputs in batched_inputs]

    def _detect(self, inputs: Mapping[str, Any]) -> Instances:
        image = inputs["image"]
        size = (inputs.get("height", image.shape[-2]), inputs.get("width", image.shape[-1]))
        with_masks = candidates.has_masks(self.model)
        pooled: list[Instances] = []
        views: list[_View] = []
        for scale, shown, mirrored in self._views(image):
            found, features = candidates.find_candidates(self.model, shown)
            # Boxes are merged in the frame of the first view: nothing is rounded if it is the only.
            frame = pooled[0].image_size if pooled else found.image_size
            boxes = _move(found.pred_boxes.tensor, found.image_size, frame, mirrored=mirrored)
            moved = Instances(frame, **{**found.get_fields(), "pred_boxes": Boxes(boxes)})
            pooled.append(self._in_range(moved, scale, size))
            if with_masks:
                views.append(_View(features, found.image_size, mirrored))
        merged = self._merge(Instances.cat(pooled))
        if with_masks:
            merged.pred_masks = self._average_masks(merged, views)
        return detector_postprocess(merged, *size)

    def _views(self, image: Tensor) -> Iterator[tuple[int, Tensor, bool]]:
        """Yield the index of its scale, the image (3, h, w) and whether it is mirrored."""
        for index, scale in enumerate(self.scales or [None]):
            view = image if scale is None else _resize_short_side(image, scale, self.max_size)
            yield index, view, False
            if self.flip:
                yield index, view.flip(-1), True

    def _in_range(self, found: Instances, scale: int, size: tuple[int, int]) -> Instances:
        """Keep the boxes whose area in the original image is in the range of the scale."""
        if self.area_ranges is None:
            return found
        low, high = self.area_ranges[scale]
        boxes = _move(found.pred_boxes.tensor, found.image_size, size)
        area = Boxes(boxes).area()
        keep = torch.ones_like(area, dtype=torch.bool)
        if low is not None:
            keep &= area > low
        if high is not None:
            keep &= area <= high
        return found[keep]

    def _merge(self, found: Instances) -> Instances:
        most = self.max_detections
        if most is None:
            most = candidates.max_detections(self.model)
        merged = self.nms(found, own_threshold=candidates.nms_threshold(self.model))
        return merged if most < 0 else merged[:most]

    def _average_masks(self, merged: Instances, views: Sequence[_View]) -> Tensor:
        """Return the mean of the masks (N, 1, M, M) over the views."""
        total = None
        for view in views:
            boxes = _move(
                merged.pred_boxes.tensor, merged.image_size, view.size, mirrored=view.mirrored
            )
            masks = candidates.predict_masks(self.model, view.features, boxes, view.size, merged)
            masks = masks.flip(-1) if view.mirrored else masks
            total = masks if total is None else total + masks
        return total / len(views)


def _move(
    boxes: Tensor, source: tuple[int, int], target: tuple[int, int], *, mirrored: bool = False
) -> Tensor:
    """Move boxes (N, 4) from an image to one of another size, which may be its mirror image.

    Args:
        boxes: (x0, y0, x1, y1).
        source, target: (height, width) of the two images.
        mirrored: whether one is the mirror image of the other.
    """
    if source != target:
        y, x = (new / old for old, new in zip(source, target, strict=True))
        boxes = boxes * boxes.new_tensor([x, y, x, y])
    if mirrored:
        x0, y0, x1, y1 = boxes.unbind(1)
        boxes = torch.stack([target[1] - x1, y0, target[1] - x0, y1], dim=1)
    return boxes


def _resize_short_side(image: Tensor, scale: int, max_size: int) -> Tensor:
    """Resize an image (C, H, W) as Detectron2's mappers do."""
    array = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    try:
        resized = AugInput(array)
        T.ResizeShortestEdge([scale], max_size, "choice")(resized)
    except ValueError as error:
        raise ValueError(
            f"an image of {array.shape[1]} x {array.shape[0]} pixels (width x height) cannot be "
            f"resized to a longer side of at most {max_size}: {error}. Crop the image, or raise "
            "max_size."
        ) from error
    return torch.from_numpy(np.ascontiguousarray(resized.image.transpose(2, 0, 1))).to(image.device)


def _check_threshold(nms: Suppression, num_views: int) -> None:
    """Raise a ValueError if a model without NMS needs a threshold that ``nms`` does not have."""
    is_needed = nms.method == "linear" or (nms.method == "hard" and num_views > 1)
    if is_needed and nms.iou_threshold is None:
        raise ValueError(
            "the model does not remove overlapping boxes and so has no threshold of its own for "
            f"{nms.method} NMS of {num_views} views; give nms an iou_threshold, such as 0.6"
        )


def _check_numbers(
    scales: Sequence[int] | None,
    max_size: int,
    area_ranges: Sequence[Sequence[float | None]] | None,
    max_detections: int | None,
) -> None:
    if scales is not None and (
        not scales or any(scale != int(scale) or scale < 2 for scale in scales)
    ):
        raise ValueError(
            "scales must be one or more lengths of the shorter side in whole pixels, such as "
            f"[640, 800], got {list(scales)}"
        )
    if max_size < max(scales or [1]):
        raise ValueError(f"max_size must be at least the largest scale, got {max_size}")
    if max_detections is not None and max_detections < 1:
        raise ValueError(f"max_detections must be >= 1, got {max_detections}")
    if area_ranges is None:
        return
    if len(area_ranges) != len(scales or [1]):
        raise ValueError(
            f"area_ranges must have one pair for each of the {len(scales or [1])} scales, "
            f"got {len(area_ranges)}"
        )
    for pair in area_ranges:
        low, high = pair if len(pair) == 2 else (1, 0)
        if (-math.inf if low is None else low) >= (math.inf if high is None else high):
            raise ValueError(
                "each of area_ranges must be (more than, at most) in square pixels, such as "
                f"[1024, 9216] or [9216, null], got {list(pair)}"
            )
