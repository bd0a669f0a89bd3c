"""The relative position bias of timm's BEiT at any grid, as a differentiable function of its table.

Shapes: h/w grid of patches, N = h*w, M heads, S = 2*side - 1 relative positions along an axis.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from timm.layers import resize_rel_pos_bias_table
from timm.models.beit import gen_relative_position_index
from torch import Tensor, nn

from vit_adapter.layers import GridSize

NUM_EXTRA = 3  # class to patch, patch to class, class to class: the last rows of a table


@dataclass(frozen=True)
class RelativePositions:
    """What all blocks share at one grid.

    Attributes:
        index: (1 + N, 1 + N), the row of the table for each pair of tokens, class token first.
        rows: (S of the grid, S of the table), resizes a table vertically; None if nothing changes.
        columns: the same horizontally.
    """

    index: Tensor
    rows: Tensor | None
    columns: Tensor | None

    def bias(self, table: Tensor) -> Tensor:
        """Look up the bias (1, M, 1 + N, 1 + N) in a table (S*S + 3, M)."""
        if self.rows is not None:
            grid = table[:-NUM_EXTRA].unflatten(0, (self.rows.shape[1], self.columns.shape[1]))
            resized = torch.einsum("ya,xb,abm->yxm", self.rows, self.columns, grid)
            table = torch.cat([resized.flatten(0, 1), table[-NUM_EXTRA:]])
        return table[self.index].permute(2, 0, 1)[None]


def relative_positions(source: GridSize, grid: GridSize, like: Tensor) -> RelativePositions:
    """Prepare the bias at ``grid`` from tables of ``source``, on the device of ``like``."""
    index = gen_relative_position_index(grid, device=like.device)
    if source == grid:
        return RelativePositions(index, None, None)
    return RelativePositions(index, *(m.to(like) for m in _resize_matrices(source, grid)))


@lru_cache(maxsize=64)
def _resize_matrices(source: GridSize, grid: GridSize) -> tuple[Tensor, Tensor]:
    """Find timm's interpolation along each axis.

    timm interpolates linearly between positions that are spaced geometrically, the denser the
    nearer. That is linear in the table and separable, so one run over the unit vectors of each
    axis, constant along the other, gives it as two matrices.
    """
    height, width = (2 * side - 1 for side in source)
    new_shape = (2 * grid[0] - 1, 2 * grid[1] - 1)
    with torch.inference_mode(False), torch.no_grad():
        vertical = torch.eye(height)[:, None].expand(height, width, height).flatten(0, 1)
        horizontal = torch.eye(width)[None].expand(height, width, width).flatten(0, 1)
        resized = [
            resize_rel_pos_bias_table(
                table, grid, (new_shape[0] * new_shape[1], table.shape[1]), old_window_size=source
            ).unflatten(0, new_shape)
            for table in (vertical, horizontal)
        ]
        return resized[0][:, 0].clone(), resized[1][0].clone()


def biased_attention(attention: nn.Module, tokens: Tensor, bias: Tensor) -> Tensor:
    """timm's ``beit.Attention``, (B, 1 + N, D) -> the same, with a bias (1, M, 1 + N, 1 + N)."""
    qkv_bias = None
    if attention.q_bias is not None:
        qkv_bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    qkv = F.linear(tokens, attention.qkv.weight, qkv_bias)
    qkv = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = qkv  # (B, M, 1 + N, D/M) each
    dropout = attention.attn_drop.p if attention.training else 0.0
    attended = F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias.to(query.dtype), dropout_p=dropout
    )
    return attention.proj_drop(attention.proj(attended.transpose(1, 2).flatten(2)))
