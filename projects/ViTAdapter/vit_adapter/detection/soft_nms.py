"""Soft-NMS: boxes that overlap a better one lose score instead of being removed.

Bodla et al., *Soft-NMS: Improving Object Detection With One Line of Code*, arXiv:1704.04503.

Shapes: N boxes, R of them kept.
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torchvision.ops import box_iou

__all__ = ["SoftNMSMethod", "soft_nms"]

SoftNMSMethod = Literal["linear", "gaussian"]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    method: SoftNMSMethod = "linear",
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    min_score: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """Take the best box, lower the scores of the boxes of its class that overlap it, and repeat.

    This is the procedure of mmcv, and so is its order of equal scores. It runs on the CPU, because
    each step depends on the one before.

    Args:
        boxes: (N, 4) as (x0, y0, x1, y1).
        scores: (N,), >= 0.
        classes: (N,); only boxes of the same class lower each other's scores.
        method: "linear" multiplies a score by 1 - IoU if IoU >= ``iou_threshold``; "gaussian"
            multiplies it by exp(-IoU^2 / ``sigma``) at any IoU.
        iou_threshold: only for "linear", >= 0. Above 1, no score changes.
        sigma: only for "gaussian", > 0. At infinity, no score changes; towards 0, any overlap
            removes a box, as NMS at IoU 0 does.
        min_score: boxes are dropped when their score falls below this. The best of the remaining
            boxes is always kept.

    Returns:
        Indices (R,) of the kept boxes, best first, and their lowered scores (R,).

    Raises:
        ValueError: the method is unknown, or a number is out of range.
    """
    check_soft_nms(method=method, iou_threshold=iou_threshold, sigma=sigma, min_score=min_score)
    device = boxes.device
    boxes, scores, classes = boxes.cpu(), scores.cpu().clone(), classes.cpu()
    order = torch.arange(len(boxes))
    kept: list[Tensor] = []
    kept_scores: list[Tensor] = []
    while len(order):
        best = scores.argmax()
        kept.append(order[best])
        kept_scores.append(scores[best])
        # The first box moves to the place of the best one, which matters for equal scores.
        rest = torch.arange(len(order))
        rest[best] = 0
        rest = rest[1:]
        iou = box_iou(boxes[order[best]][None], boxes[order[rest]])[0]
        iou = torch.where(classes[order[rest]] == classes[order[best]], iou, 0)
        scores = scores[rest] * _decay(iou, method, iou_threshold, sigma)
        order = order[rest]
        left = _close_gaps(scores >= min_score)
        order, scores = order[left], scores[left]
    if not kept:
        return order.to(device), scores.to(device)
    return torch.stack(kept).to(device), torch.stack(kept_scores).to(device)


def check_soft_nms(*, method: str, iou_threshold: float, sigma: float, min_score: float) -> None:
    """Raise a ValueError if the arguments of :func:`soft_nms` are out of range."""
    if method not in get_args(SoftNMSMethod):
        raise ValueError(f"method of soft-NMS must be linear or gaussian, got {method!r}")
    if not iou_threshold >= 0:
        raise ValueError(f"iou_threshold must be >= 0, got {iou_threshold}")
    if not sigma > 0:
        raise ValueError(f"sigma must be > 0, got {sigma}")
    if not min_score >= 0:
        raise ValueError(f"min_score must be >= 0, got {min_score}")


def _decay(iou: Tensor, method: str, iou_threshold: float, sigma: float) -> Tensor:
    if method == "linear":
        return torch.where(iou >= iou_threshold, 1 - iou, 1)
    return torch.exp(-(iou**2) / sigma)


def _close_gaps(keep: Tensor) -> Tensor:
    """Return the positions that are kept, the gaps before the end filled with the last ones.

    Args:
        keep: (N,) bool.
    """
    count = int(keep.sum())
    positions = torch.arange(len(keep))
    gaps = positions[:count][~keep[:count]]
    positions[gaps] = positions[count:][keep[count:]].flip(0)
    return positions[:count]
