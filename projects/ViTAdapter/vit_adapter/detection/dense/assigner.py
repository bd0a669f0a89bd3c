"""Adaptive training sample selection (arXiv 1912.02424): which anchors learn which object.

Shapes: A anchors of all levels, G ground-truth boxes, C candidates per box, which are at most
``topk`` of each level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vit_adapter.detection.boxes import box_centers, box_distances, overlap

__all__ = ["candidate_thresholds", "match_anchors", "nearest_anchors"]

# Distances computed at a time: bounds the memory for images with thousands of boxes.
_MAX_DISTANCES = 2**22
_MARGIN = 0.01  # a positive anchor's centre lies more than this many pixels inside the box


@torch.no_grad()
def match_anchors(
    anchors: Sequence[Tensor], gt_boxes: Tensor, *, topk: int = 9
) -> tuple[Tensor, Tensor]:
    """Match anchors to the ground-truth boxes of one image.

    A box takes those of its candidates whose centres lie inside it and whose IoU reaches its
    threshold. An anchor that several boxes take belongs to the one with the highest IoU, and to the
    first of them if these are equal. Memory grows with C * G and, up to a limit, with A * G.

    Args:
        anchors: (number, 4) for each level.
        gt_boxes: (G, 4).
        topk: anchors that each level proposes for a box, those with the nearest centres.

    Returns:
        For each anchor the index of its box, -1 for background (A,), and the IoU with that box, -1
        for background (A,).
    """
    boxes = torch.cat(list(anchors))
    matched = torch.full((len(boxes),), -1, dtype=torch.int64, device=boxes.device)
    best = boxes.new_full((len(boxes),), -1)
    if not len(gt_boxes) or not len(boxes):
        return matched, best
    candidates = nearest_anchors(anchors, gt_boxes, topk=topk)
    ious = overlap(boxes[candidates], gt_boxes)[0]
    sides = box_distances(box_centers(boxes)[candidates], gt_boxes)  # (C, G, 4)
    positive = (ious >= candidate_thresholds(ious)) & (sides.amin(-1) > _MARGIN)
    taken, ious = candidates[positive], ious[positive]
    best = best.scatter_reduce(0, taken, ious, "amax")
    owners = torch.arange(len(gt_boxes), device=boxes.device).expand_as(positive)[positive]
    wins = ious == best[taken]
    first = matched.new_full(matched.shape, len(gt_boxes))
    first = first.scatter_reduce(0, taken[wins], owners[wins], "amin")
    return torch.where(first < len(gt_boxes), first, matched), best


def nearest_anchors(anchors: Sequence[Tensor], gt_boxes: Tensor, *, topk: int) -> Tensor:
    """For each box the anchors whose centres are nearest to its own, ``topk`` of each level.

    Args:
        anchors: (number, 4) for each level.
        gt_boxes: (G, 4), at least one.
        topk: see :func:`match_anchors`; a level with fewer anchors gives all of them.

    Returns:
        (C, G), indices among the anchors of all levels.
    """
    candidates, start = [], 0
    for level in anchors:
        if len(level):
            centers = box_centers(level)
            parts = box_centers(gt_boxes).split(max(_MAX_DISTANCES // len(level), 1))
            nearest = [_nearest(centers, part, min(topk, len(level))) for part in parts]
            candidates.append(torch.cat(nearest, dim=1) + start)
        start += len(level)
    return torch.cat(candidates)


def _nearest(points: Tensor, targets: Tensor, count: int) -> Tensor:
    """Indices (count, number of targets) of the points nearest to each target."""
    distances = (points[:, None, 0] - targets[None, :, 0]).square_()
    distances += (points[:, None, 1] - targets[None, :, 1]).square_()
    return distances.topk(count, dim=0, largest=False).indices


def candidate_thresholds(ious: Tensor) -> Tensor:
    """Mean plus unbiased standard deviation (G,) of the candidates' IoUs (C, G)."""
    return ious.mean(0) + ious.std(0)
