"""Learned absolute position embeddings at resolutions other than the trained one.

Shapes: D embed dim, G side of the square pre-training grid, h/w grid of the image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_adapter.layers.pyramid import GridSize, known_equal


def resize_position_embedding(
    embedding: Tensor, source: GridSize, target: GridSize, *, antialias: bool = False
) -> Tensor:
    """Resize grid embeddings bicubically (align_corners=False), in float32 or wider.

    Args:
        embedding: (1, source rows * source columns, D), row-major, without class or other prefix
            tokens.
        source: the grid of ``embedding``.
        target: the wanted grid.
        antialias: whether a smaller grid is made with antialiasing.

    Returns:
        (1, target rows * target columns, D) in the dtype of ``embedding``.
    """
    if known_equal(source, target):
        return embedding
    wide = torch.promote_types(embedding.dtype, torch.float32)
    grid = embedding.to(wide).view(1, *source, -1).permute(0, 3, 1, 2)  # (1, D, G, G)
    grid = F.interpolate(
        grid, size=target, mode="bicubic", align_corners=False, antialias=antialias
    )
    return grid.flatten(2).transpose(1, 2).to(embedding.dtype)  # (1, h*w, D)
