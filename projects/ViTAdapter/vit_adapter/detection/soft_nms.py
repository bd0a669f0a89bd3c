"""Soft-NMS: boxes that overlap a better one lose score instead of being removed.

Bodla et al., *Soft-NMS: Improving Object Detection With One Line of Code*, arXiv:1704.04503.

Shapes: N boxes, R of them kept.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

__all__ = ["SoftNMSMethod", "soft_nms"]

SoftNMSMethod = Literal["linear", "gaussian"]

_SPLIT = 10_000  # boxes; from this number on, mmcv treats each class on its own


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

    This is the procedure of mmcv, and so is its order of equal scores. It runs on the CPU
    with NumPy, because each step is small and depends on the one before. From 10,000 boxes on,
    each class runs on its own, as in mmcv: 30,000 boxes of 80 classes take seconds, not minutes.

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
    columns = (
        boxes.detach().cpu().double().numpy(),
        scores.detach().cpu().double().numpy(),
        classes.cpu().numpy(),
    )
    decay = partial(_decay, method=method, iou_threshold=iou_threshold, sigma=sigma)
    lower = _lower if len(boxes) < _SPLIT else _lower_by_class
    order, lowered = lower(*columns, decay=decay, min_score=min_score)
    return torch.from_numpy(order).to(boxes.device), torch.from_numpy(lowered).to(scores)


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


def _lower(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    *,
    decay: Callable[[np.ndarray], np.ndarray],
    min_score: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Do what :func:`soft_nms` does with all boxes at once."""
    boxes, scores, classes = boxes.copy(), scores.copy(), classes.copy()
    order = np.arange(len(boxes))
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    columns = (boxes, scores, classes, order, areas)
    first, end = 0, len(boxes)
    while first < end:
        best = first + scores[first:end].argmax()
        for column in columns:
            column[[first, best]] = column[[best, first]]
        rest = slice(first + 1, end)
        iou = _iou(boxes[first], areas[first], boxes[rest], areas[rest])
        iou[classes[rest] != classes[first]] = 0
        scores[rest] *= decay(iou)
        keep = scores[rest] >= min_score
        if not keep.all():
            left = _close_gaps(keep)
            end = first + 1 + len(left)
            for column in columns:
                column[first + 1 : end] = column[rest][left]
        first += 1
    return order[:end], scores[:end]


def _lower_by_class(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Do what :func:`soft_nms` does, one class after another."""
    orders, lowered = [], []
    for number in np.unique(classes):
        (of_class,) = np.nonzero(classes == number)
        order, values = _lower(boxes[of_class], scores[of_class], classes[of_class], **options)
        orders.append(of_class[order])
        lowered.append(values)
    order, values = np.concatenate(orders), np.concatenate(lowered)
    best = np.argsort(-values, kind="stable")
    return order[best], values[best]


def _iou(box: np.ndarray, area: float, others: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """IoU (N,) of a box (4,) and others (N, 4), whose areas are given; 0 if both have none."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = sides.clip(0).prod(axis=1)
    union = area + areas - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _decay(iou: np.ndarray, method: str, iou_threshold: float, sigma: float) -> np.ndarray:
    if method == "linear":
        return np.where(iou >= iou_threshold, 1 - iou, 1)
    return np.exp(-(iou**2) / sigma)


def _close_gaps(keep: np.ndarray) -> np.ndarray:
    """Return the positions that are kept, the gaps before the end filled with the last ones.

    Args:
        keep: (N,) bool.
    """
    count = keep.sum()
    positions = np.arange(len(keep))
    positions[:count][~keep[:count]] = positions[count:][keep[count:]][::-1]
    return positions[:count]
