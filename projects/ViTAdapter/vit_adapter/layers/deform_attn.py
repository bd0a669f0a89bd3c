"""Multi-scale deformable attention as a module (Deformable DETR, arXiv 2010.04159, section 4.1).

Shapes: B batch, Q queries, C embed dim, S value tokens, M heads, D channels per head, L levels,
P points.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vit_adapter.layers.cpu.dense import Linear, linear
from vit_adapter.layers.cpu.softmax import softmax
from vit_adapter.layers.derived import DerivesTensors
from vit_adapter.layers.pyramid import GridSize, inverse_grid_sizes
from vit_adapter.ops import ms_deform_attn


class MSDeformAttn(DerivesTensors):
    """Every query averages the values of a few points per level around its reference point.

    Parameter names are those of Deformable DETR: ``sampling_offsets``, ``attention_weights``,
    ``value_proj``, ``output_proj``.

    Args:
        embed_dim: width C of queries and values.
        num_heads: heads M; must divide the width C * deform_ratio.
        num_levels: levels L of the value pyramid.
        num_points: points P per head and level.
        deform_ratio: width of the values within the attention, relative to C; usually in (0, 1].

    Raises:
        ValueError: a count is below one, or C * deform_ratio is not a positive multiple of
            num_heads.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        num_heads: int,
        num_levels: int,
        num_points: int = 4,
        deform_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        if min(embed_dim, num_heads, num_levels, num_points) < 1:
            raise ValueError(
                "embed_dim, num_heads, num_levels and num_points must be at least 1, "
                f"got {embed_dim}, {num_heads}, {num_levels}, {num_points}"
            )
        value_dim = int(embed_dim * deform_ratio)
        if value_dim < 1 or value_dim % num_heads:
            raise ValueError(
                "embed_dim * deform_ratio must be a positive multiple of the "
                f"{num_heads} deformable heads, got {embed_dim} * {deform_ratio} = {value_dim}"
            )
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        num_samples = num_heads * num_levels * num_points
        self.sampling_offsets = Linear(embed_dim, num_samples * 2)
        self.attention_weights = Linear(embed_dim, num_samples)
        self.value_proj = Linear(embed_dim, value_dim)
        self.output_proj = Linear(value_dim, embed_dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start with equal weights on points along one ray per head from the reference point."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        rays = torch.stack([angles.cos(), angles.sin()], -1)
        rays = rays / rays.abs().amax(-1, keepdim=True)  # (M, 2), on the border of the unit square
        distances = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = rays[:, None, None] * distances[:, None]  # (M, 1, P, 2)
        offsets = offsets.expand(-1, self.num_levels, -1, -1)
        self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[GridSize],
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            reference_points: (1 or B, Q, 1 or L, 2), (x, y) in [0, 1] of the image, at least
                float32: half precision would move the points by a large part of a pixel.
            value: (B, S, C), the levels one after the other, each row-major.
            spatial_shapes: (H, W) of each of the L levels.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: the number of levels differs from that of the module.
        """
        if len(spatial_shapes) != self.num_levels:
            raise ValueError(
                f"expected {self.num_levels} levels, got spatial_shapes {list(spatial_shapes)}"
            )
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        value = self.value_proj(value).unflatten(-1, (heads, -1))  # (B, S, M, D)
        dtype = reference_points.dtype
        offsets, logits = self._project(query, dtype)
        offsets = offsets.unflatten(-1, (heads, levels, points, 2))
        weights = softmax(logits, dtype).unflatten(-1, (levels, points))  # (B, Q, M, L, P)

        scale = inverse_grid_sizes(spatial_shapes, device=query.device, dtype=dtype)
        locations = torch.addcmul(  # offsets are in cells of their level
            reference_points[:, :, None, :, None], offsets, scale[:, None]
        )
        return self.output_proj(ms_deform_attn(value, spatial_shapes, locations, weights))

    def _project(self, query: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Offsets (B, Q, M*L*P*2) and logits (B, Q, M, L*P), both from one matrix product."""
        offsets, weights = self.sampling_offsets, self.attention_weights
        parts = offsets.weight, weights.weight, offsets.bias, weights.bias
        weight, bias = self.derived.get(
            parts, "merged", lambda: (torch.cat(parts[:2]), torch.cat(parts[2:]))
        )
        sizes = [offsets.out_features, weights.out_features]
        points, logits = linear(query, weight, bias).to(dtype).split(sizes, dim=-1)
        return points, logits.unflatten(-1, (self.num_heads, -1))
