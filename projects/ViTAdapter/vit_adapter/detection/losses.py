"""Losses of the detectors."""

import torch
from detectron2.utils import comm
from torch import Tensor

from vit_adapter.detection.boxes import generalized_overlap

__all__ = ["giou_loss", "mean_over_processes"]


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - generalized IoU of boxes (N, 4) and targets (N, 4).

    Areas of unions and hulls are at least 1e-6. fvcore's loss adds a small number to them instead,
    and refuses boxes with a negative side.

    Returns:
        (N,), from 0 to 2 for valid boxes.
    """
    return 1 - generalized_overlap(boxes, targets)


def mean_over_processes(values: Tensor) -> Tensor:
    """Average values over all processes, without gradients; at least 1, as they are divisors."""
    values = values.detach().clone()
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(values)
        values /= comm.get_world_size()
    return values.clamp(min=1)
