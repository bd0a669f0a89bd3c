"""Anchors of a level, made from the size of its map, which may be dynamic."""

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from torch import Tensor

__all__ = ["grid_anchors"]


def grid_anchors(generator: DefaultAnchorGenerator, features: Tensor, level: int) -> Tensor:
    """Compute the anchors that Detectron2's generator makes for one level.

    Args:
        generator: makes A anchors for each cell.
        features: (B, C, H, W).
        level: number of the level, from 0.

    Returns:
        (H * W * A, 4), in pixels.
    """
    cell_anchors = list(generator.cell_anchors.buffers())[level]
    stride = generator.strides[level]
    y, x = (
        (torch.arange(side, device=features.device, dtype=features.dtype) + generator.offset)
        * stride
        for side in features.shape[-2:]
    )
    corners = torch.stack((x.expand(y.shape[0], -1), y[:, None].expand(-1, x.shape[0])), dim=-1)
    return (corners.repeat(1, 1, 2)[:, :, None] + cell_anchors).flatten(0, 2)
