"""Assignment of boxes to ground truth by their overlap, as the original does it.

Shapes: G ground truths, N boxes.
"""

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

__all__ = ["MaxIoUAssigner"]

_MAX_PAIRS = 2**22
"""Overlaps that are computed at once, which bounds the memory for images with many objects."""


class MaxIoUAssigner:
    """Assign each box to the ground truth that it overlaps most.

    It differs from Detectron2's ``Matcher`` in what low-quality matching does. For each ground
    truth whose best overlap is at least ``min_positive``, all boxes with exactly that overlap are
    given to it, even if they overlap another ground truth more. If several ground truths claim a
    box, the last one gets it.

    Args:
        positive: a box with at least this IoU is foreground.
        negative: a box with a smaller IoU is background; those between the two are ignored.
        min_positive: smallest best overlap of a ground truth for low-quality matching.
        low_quality: whether low-quality matching is done.

    Raises:
        ValueError: the thresholds are not ``0 < negative <= positive <= 1``.
    """

    def __init__(
        self, *, positive: float, negative: float, min_positive: float, low_quality: bool
    ) -> None:
        if not 0 < negative <= positive <= 1:
            raise ValueError(
                "expected 0 < negative <= positive <= 1, got "
                f"negative={negative} and positive={positive}"
            )
        self.positive = positive
        self.negative = negative
        self.min_positive = min_positive
        self.low_quality = low_quality

    @torch.no_grad()
    def __call__(self, gt_boxes: Boxes, boxes: Boxes) -> tuple[Tensor, Tensor]:
        """Assign boxes to the ground truths of their image.

        Returns:
            matches: int64 (N,), index of a ground truth; only meaningful for foreground boxes.
            labels: int8 (N,), 1 foreground, 0 background, -1 ignored.
        """
        matches = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        labels = torch.zeros(len(boxes), dtype=torch.int8, device=boxes.device)
        if not len(gt_boxes) or not len(boxes):
            return matches, labels
        parts = torch.arange(len(boxes), device=boxes.device).split(
            max(1, _MAX_PAIRS // len(gt_boxes))
        )
        best_of_gt = gt_boxes.tensor.new_zeros(len(gt_boxes))
        for part in parts:
            overlaps = pairwise_iou(gt_boxes, boxes[part])
            best, matches[part] = overlaps.max(dim=0)
            unsure = torch.where(best >= self.negative, -1, 0)
            labels[part] = torch.where(best >= self.positive, 1, unsure).to(torch.int8)
            best_of_gt = torch.maximum(best_of_gt, overlaps.amax(dim=1))
        if self.low_quality:
            for part in parts:
                if len(parts) > 1:
                    overlaps = pairwise_iou(gt_boxes, boxes[part])
                claimed, owner = self._claim(overlaps, best_of_gt)
                matches[part] = torch.where(claimed, owner, matches[part])
                labels[part] = labels[part].masked_fill(claimed, 1)
        return matches, labels

    def _claim(self, overlaps: Tensor, best_of_gt: Tensor) -> tuple[Tensor, Tensor]:
        """Which boxes are the best ones of a ground truth, and the last of these truths."""
        claims = (overlaps == best_of_gt[:, None]) & (best_of_gt >= self.min_positive)[:, None]
        # A box counts its claims from the last ground truth, where argmax finds the first.
        last = len(claims) - 1 - claims.flip(0).to(torch.uint8).argmax(dim=0)
        return claims.any(dim=0), last
