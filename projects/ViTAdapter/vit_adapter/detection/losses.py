"""Losses of the detectors.

Shapes: N boxes.
"""

import torch
from torch import Tensor

__all__ = ["giou_loss"]


def giou_loss(boxes: Tensor, targets: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Return 1 - generalized IoU of each box and its target.

    fvcore's loss adds ``eps`` to the areas and refuses boxes with a negative side; here ``eps`` is
    their lower limit.

    Args:
        boxes: (N, 4), x1, y1, x2, y2.
        targets: (N, 4), the same.
        eps: smallest area of a union and of a hull.

    Returns:
        (N,), from 0 to 2 for valid boxes.
    """
    overlap = _area(
        torch.maximum(boxes[:, :2], targets[:, :2]), torch.minimum(boxes[:, 2:], targets[:, 2:])
    )
    hull = _area(
        torch.minimum(boxes[:, :2], targets[:, :2]), torch.maximum(boxes[:, 2:], targets[:, 2:])
    ).clamp(min=eps)
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, targets)]
    union = (areas[0] + areas[1] - overlap).clamp(min=eps)
    return 1 - overlap / union + (hull - union) / hull


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    """Area between two corners; 0 if they are in the wrong order."""
    return (bottom_right - top_left).clamp(min=0).prod(dim=1)
