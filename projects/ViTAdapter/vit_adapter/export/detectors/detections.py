"""What exported detectors return, and how the results are chosen among the candidates.

Shapes: B batch, R regions or anchors, K classes, N results.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from vit_adapter.export.detectors.suppression import choose_rows, suppress

__all__ = ["Candidates", "Results", "choose_results", "fill"]


class Candidates(NamedTuple):
    """Boxes with a class each, before NMS.

    Attributes:
        boxes: (B, R, 4), in pixels.
        scores: (B, R), positive; 0 for candidates that are left out.
        classes: (B, R), from 0 to K - 1.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor


class Results(NamedTuple):
    """Detections, best first. The rows after the last detection of an image are 0.

    Attributes:
        boxes: (B, N, 4), x1, y1, x2, y2 in pixels of the image.
        scores: (B, N), from 0 to 1.
        classes: (B, N) int64.
        found: (B, N) bool, whether the row is a detection.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    found: Tensor


def choose_results(
    candidates: Candidates, *, num_classes: int, iou_threshold: float, count: int
) -> Results:
    """Suppress duplicates within a class, and keep the ``count`` best of the others."""
    boxes, scores, classes = candidates
    index, found = suppress(
        boxes,
        scores,
        classes,
        num_groups=num_classes,
        iou_threshold=iou_threshold,
        count=min(count, scores.shape[1]),
    )
    boxes, scores, classes = (choose_rows(values, index) for values in candidates)
    return fill(boxes, scores, classes, found)


def fill(boxes: Tensor, scores: Tensor, classes: Tensor, found: Tensor) -> Results:
    """Write zeros to the rows that are no detections."""
    boxes = torch.where(found[..., None], boxes, 0.0)
    return Results(boxes, torch.where(found, scores, 0.0), torch.where(found, classes, 0), found)
