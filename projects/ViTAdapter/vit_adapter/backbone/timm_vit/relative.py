"""The relative position bias of timm's BEiT for any grid, differentiable in its table.

Shapes: h/w grid of patches, N = h*w, M heads, S = 2*side - 1 relative positions along an axis.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.layers import resize_rel_pos_bias_table
from torch import Tensor, nn

from vit_adapter.layers import GridSize, linear, scaled_dot_product_attention
from vit_adapter.layers.pyramid import cached_constant
from vit_adapter.layers.relative_position import NUM_CLASS_ROWS, relative_position_bias


@dataclass(frozen=True)
class RelativePositions:
    """What all blocks share for one grid.

    Attributes:
        grid: (h, w).
        rows: (S of the grid, S of the table), resizes a table vertically; None for no change.
        columns: the same horizontally.
    """

    grid: GridSize
    rows: Tensor | None
    columns: Tensor | None

    def bias(self, table: Tensor, dtype: torch.dtype) -> Tensor:
        """Spread a table (S*S + 3, M) over all pairs: (M, 1 + N, 1 + N), class token first."""
        if self.rows is not None:
            table = self._resize(table)
        return relative_position_bias(table.to(dtype), self.grid, class_token=True)

    def _resize(self, table: Tensor) -> Tensor:
        """Resize a table, in float32 or wider even under autocast."""
        grid = table[:-NUM_CLASS_ROWS].unflatten(0, (self.rows.shape[1], self.columns.shape[1]))
        with torch.autocast(table.device.type, enabled=False):
            resized = torch.einsum("ya,xb,abm->yxm", self.rows, self.columns, grid.to(self.rows))
        return torch.cat([resized.flatten(0, 1).to(table.dtype), table[-NUM_CLASS_ROWS:]])


def relative_positions(source: GridSize, grid: GridSize, like: Tensor) -> RelativePositions:
    """Prepare the bias at ``grid`` from tables of ``source``, on the device of ``like``."""
    if source == grid:
        return RelativePositions(grid, None, None)
    wide = torch.promote_types(like.dtype, torch.float32)
    rows, columns = (
        cached_constant(make, (source, grid), like.device, wide)
        for make in (_vertical_weights, _horizontal_weights)
    )
    return RelativePositions(grid, rows, columns)


def _vertical_weights(
    grids: tuple[GridSize, ...], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """timm's interpolation between rows, (S of the new grid, S of the old).

    timm interpolates linearly between positions that are spaced geometrically, densest around zero.
    The result is linear in the table and separable, so resizing the unit vectors of one axis,
    constant along the other, gives the matrix.
    """
    height, width = (2 * side - 1 for side in grids[0])
    table = torch.eye(height)[:, None].expand(height, width, height)
    return _resize_by_timm(table, grids)[:, 0].to(device, dtype, copy=True)


def _horizontal_weights(
    grids: tuple[GridSize, ...], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """timm's interpolation between columns, in the same form."""
    height, width = (2 * side - 1 for side in grids[0])
    table = torch.eye(width)[None].expand(height, width, width)
    return _resize_by_timm(table, grids)[0].to(device, dtype, copy=True)


def _resize_by_timm(table: Tensor, grids: tuple[GridSize, ...]) -> Tensor:
    """(S, S, M) of the first grid -> (S, S, M) of the second."""
    source, grid = grids
    height, width = (2 * side - 1 for side in grid)
    shape = (height * width, table.shape[-1])
    with torch.no_grad():
        resized = resize_rel_pos_bias_table(
            table.flatten(0, 1), grid, shape, old_window_size=source
        )
    return resized.unflatten(0, (height, width))


def biased_attention(
    attention: nn.Module, tokens: Tensor, bias: Callable[[torch.dtype], Tensor]
) -> Tensor:
    """timm's ``beit.Attention``, (B, 1 + N, D) -> the same.

    ``bias`` returns the bias (M, 1 + N, 1 + N) in a dtype.
    """
    qkv_bias = None
    if attention.q_bias is not None:
        qkv_bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    if attention.qkv_bias_separate:
        qkv = attention.qkv(tokens)
        qkv = qkv if qkv_bias is None else qkv + qkv_bias
    else:
        qkv = linear(tokens, attention.qkv.weight, qkv_bias)
    qkv = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = qkv  # (B, M, 1 + N, D/M) each
    dropout = attention.attn_drop.p if attention.training else 0.0
    mask = bias(query.dtype)[None]
    attended = scaled_dot_product_attention(query, key, value, mask, dropout)
    return attention.proj_drop(attention.proj(attended.transpose(1, 2).flatten(2)))
