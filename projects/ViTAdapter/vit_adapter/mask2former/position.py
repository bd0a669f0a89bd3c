"""Sine position embeddings of feature maps (DETR, arXiv 2005.12872, appendix A.4).

Shapes: C channels, H/W grid of one level.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vit_adapter.layers.pyramid import GridSize, cached_constant

_TEMPERATURE = 10000
_EPS = 1e-6


def sine_positions(
    shapes: Sequence[GridSize], channels: int, *, device: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    """Embed the cells of each level; a side of any length spans a full period of the fastest wave.

    Args:
        shapes: (H, W) of each level.
        channels: channels C, a multiple of 4: half for the row and half for the column, with sine
            and cosine alternating.

    Returns:
        (1, H*W, C) for each level, row-major.
    """
    tables = cached_constant(_axis_tables, (channels // 2, *shapes), device, dtype)
    levels = []
    for (height, width), table in zip(
        shapes, tables.split([sum(shape) for shape in shapes]), strict=True
    ):
        rows, columns = table.split([height, width])
        rows = rows[:, None].expand(-1, width, -1)  # (H, W, C/2)
        columns = columns.expand(height, -1, -1)
        levels.append(torch.cat([rows, columns], -1).flatten(0, 1)[None])
    return levels


def _axis_tables(arguments: tuple[Any, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Embed all rows and columns, which are few enough to cache.

    Args:
        arguments: C/2, and (H, W) of each level.

    Returns:
        (sum of H + W, C/2): rows, then columns, level by level.
    """
    channels, *shapes = arguments
    pairs = torch.arange(channels, device=device, dtype=dtype).div(2).floor()
    wavelengths = _TEMPERATURE ** (2 * pairs / channels)
    tables = []
    for side in (side for shape in shapes for side in shape):
        cells = torch.arange(1, side + 1, device=device, dtype=dtype)
        angles = (cells / (side + _EPS) * 2 * math.pi)[:, None] / wavelengths
        waves = torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], -1)
        tables.append(waves.flatten(1))
    return torch.cat(tables)
