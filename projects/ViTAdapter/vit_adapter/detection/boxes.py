"""Box arithmetic in the precision of its inputs; Detectron2's rounds to float32.

Boxes are (x1, y1, x2, y2).

Shapes: ... any leading dimensions, the same or broadcast.
"""

import torch
from torch import Tensor

__all__ = [
    "box_centers",
    "box_distances",
    "clip_boxes",
    "generalized_overlap",
    "in_float32",
    "overlap",
]

_EPS = 1e-6  # least area of a union or hull, in the unit of the boxes


def in_float32(values: Tensor) -> Tensor:
    """Values in float32, or in their own type if it is wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def box_centers(boxes: Tensor) -> Tensor:
    """Centres (..., 2), as (x, y), of boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def box_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances (..., 4) from points (..., 2) to the left, top, right and bottom of boxes (..., 4).

    They are negative where the point lies outside.
    """
    return torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)


def clip_boxes(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Clip boxes (..., 4) to an image of ``image_size``, (height, width)."""
    height, width = image_size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack((x, y), dim=-1).flatten(-2)


def overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of pairs of boxes, and the area of the union.

    Args:
        first: (..., 4).
        second: (..., 4).

    Returns:
        Two tensors (...). The area is at least 1e-6.
    """
    corner = torch.maximum(first[..., :2], second[..., :2])
    opposite = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = _area((opposite - corner).clamp(min=0))
    union = _area(_sides(first)) + _area(_sides(second)) - intersection
    union = union.clamp(min=_EPS)
    return intersection / union, union


def generalized_overlap(first: Tensor, second: Tensor) -> Tensor:
    """Generalized IoU (...), from -1 to 1, of pairs of boxes (..., 4) (arXiv 1902.09630)."""
    iou, union = overlap(first, second)
    corner = torch.minimum(first[..., :2], second[..., :2])
    opposite = torch.maximum(first[..., 2:], second[..., 2:])
    hull = _area((opposite - corner).clamp(min=0)).clamp(min=_EPS)
    return iou - (hull - union) / hull


def _sides(boxes: Tensor) -> Tensor:
    return boxes[..., 2:] - boxes[..., :2]


def _area(sides: Tensor) -> Tensor:
    # Not ``prod``, whose gradient counts zeros, for which a GPU has to wait.
    return sides[..., 0] * sides[..., 1]
