"""Relative position biases of self-attention within a grid (BEiT, arXiv 2106.08254, section 2.1).

A table holds one row for each offset (dy, dx) = query minus key of a grid (h, w), row-major from
(1 - h, 1 - w) to (h - 1, w - 1). With a class token in front of the patches three more rows
follow: the class token as query, the class token as key, and as both.

Shapes: h/w grid of patches, N tokens (h*w, and the class token), R rows of a table, M heads, S/T
side of the source and of the target in offsets.
"""

import operator

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor

from vit_adapter.layers.pyramid import GridSize, cached_constant

NUM_CLASS_ROWS = 3
"""Rows of a table for the class token."""

# Attention kernels on GPUs copy a bias whose rows do not start at multiples of this many elements.
_ALIGNMENT = 8


def num_offsets(grid: GridSize) -> int:
    """Number of distinct offsets between two patches of a grid (h, w)."""
    height, width = grid
    return (2 * height - 1) * (2 * width - 1)


def relative_position_bias(table: Tensor, grid: GridSize, *, class_token: bool) -> Tensor:
    """Spread a table over all pairs of tokens.

    Args:
        table: (R, M), R = (2h-1)(2w-1), and three more with a class token.
        grid: (h, w) of the patches.
        class_token: whether the first token is a class token.

    Returns:
        (M, N, N): heads, queries, keys. Rows are contiguous, but their stride may exceed N.
    """
    height, width = grid
    heads = table.shape[1]
    offsets = table[: num_offsets(grid)].t().reshape(heads, 2 * height - 1, 2 * width - 1)
    # With its keys counted backwards, the bias is a window that slides over the table: a view whose
    # gradient is a sum over windows, where indexing would add up colliding rows.
    pairs = offsets.unfold(1, height, 1).unfold(2, width, 1).flip(3, 4)  # (M, h, w, h, w)
    prefix = int(class_token)
    size = height * width + prefix
    pitch = -(-size // _ALIGNMENT) * _ALIGNMENT
    bias = table.new_zeros(heads, size, pitch)[..., :size]
    bias[:, prefix:, prefix:] = pairs.reshape(heads, height * width, height * width)
    if class_token:
        as_query, as_key, itself = table[-NUM_CLASS_ROWS:]
        bias[:, 0, 1:] = as_query[:, None]
        bias[:, 1:, 0] = as_key[:, None]
        bias[:, 0, 0] = itself
    return bias


def resize_offsets(table: Tensor, source: GridSize, target: GridSize) -> Tensor:
    """Resize a table to another grid; differentiable, computed in at least float32.

    The offsets of the source are placed on a geometric sequence, dense around zero, that spans
    those of the target, and interpolated by a cubic spline. BEiT's own code resizes in this way.

    Args:
        table: (R, M) of the source grid. Rows for a class token, if any, are kept.
        source: (h, w) of ``table``.
        target: the wanted (h, w).

    Returns:
        (R', M) in the dtype of ``table``; ``table`` itself if the grids are the same.
    """
    if source == target:
        return table
    rows = num_offsets(source)
    wide = torch.promote_types(table.dtype, torch.float32)
    values = table[:rows].to(wide).reshape(2 * source[0] - 1, 2 * source[1] - 1, -1)
    across_y, across_x = (
        cached_constant(_spline_matrix, ((s, t),), table.device, wide)
        for s, t in zip(source, target, strict=True)
    )
    with torch.autocast(table.device.type, enabled=False):
        resized = torch.einsum("ts,ux,sxm->tum", across_y, across_x, values).flatten(0, 1)
        return torch.cat([resized.to(table.dtype), table[rows:]])


def geometric_ratio(source: int, target: int) -> float:
    """Ratio q of the sequence that spreads the source's offsets over the target's.

    Args:
        source: positive offsets of the table, n.
        target: the largest offset wanted, t.

    Returns:
        q in (1.01, 1.5) with 1 + q + ... + q^(n-1) as close to t as the range allows.
    """
    low, high = 1.01, 1.5
    while high - low > 1e-6:  # the original's bisection; weights expect its last midpoint
        ratio = (low + high) / 2
        if (1 - ratio**source) / (1 - ratio) > target:
            high = ratio
        else:
            low = ratio
    return ratio


def _spline_matrix(sides: tuple[GridSize, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """The linear map (T, S) of one axis, S = 2 * source - 1, from and to grid sides in tokens."""
    # As an index, a symbolic side becomes a number: each size is compiled by itself.
    ((source, target),) = (map(operator.index, pair) for pair in sides)
    return torch.tensor(_spline_rows(source, target), device=device, dtype=dtype)


@torch.compiler.assume_constant_result
def _spline_rows(source: int, target: int) -> list[list[float]]:
    """The matrix as a constant that torch.compile accepts also where sizes are symbols."""
    return _spline_weights(source, target).tolist()


def _spline_weights(source: int, target: int) -> np.ndarray:
    """(T, S): values of the cubic splines through the unit vectors, at whole offsets."""
    if source == target:
        return np.eye(2 * source - 1)
    if source == 1:
        return np.ones((2 * target - 1, 1))
    ratio = geometric_ratio(source - 1, target - 1)
    steps = np.cumsum(ratio ** np.arange(source - 1))  # 1, 1 + q, 1 + q + q^2, ...
    positions = np.concatenate([-steps[::-1], [0.0], steps])
    wanted = np.arange(1 - target, target, dtype=np.float64)
    # The sequence may end just before the last offset, or well before it if the ratio is limited.
    wanted = wanted.clip(positions[0], positions[-1])
    degree = min(3, len(positions) - 1)
    return make_interp_spline(positions, np.eye(len(positions)), k=degree)(wanted)
