"""Losses of the detectors."""

from torch import Tensor

from vit_adapter.detection.boxes import generalized_overlap

__all__ = ["giou_loss"]


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - generalized IoU of boxes (N, 4) and targets (N, 4).

    Areas of unions and hulls are at least 1e-6. fvcore's loss adds a small number to them instead,
    and refuses boxes with a negative side.

    Returns:
        (N,), from 0 to 2 for valid boxes.
    """
    return 1 - generalized_overlap(boxes, targets)
