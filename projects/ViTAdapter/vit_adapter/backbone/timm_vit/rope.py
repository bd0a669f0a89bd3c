"""DINOv3's rotary positions, with periods that come with the weights.

Shapes: h/w grid of patches, N = h*w, d width of a head, F = d/4 periods.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import RotaryEmbeddingDinoV3
from torch import Tensor, nn

from vit_adapter.layers import GridSize, reference_points
from vit_adapter.layers.converted import buffers_in_float32


class StoredRope(RotaryEmbeddingDinoV3):
    """timm's module, except that state dicts hold its buffer ``periods``.

    DINOv3's files hold the periods rounded to bfloat16, and its authors' models compute with these.
    timm always computes exact ones. Here they are the exact ones until others are loaded. State
    dicts without periods leave them unchanged.

    The coordinates are made on the device of the periods and in their dtype, from sides that may
    be symbols of a graph. timm makes them on the CPU, in float32, from numbers; the values are the
    same, except that in float64 these are exact.

    Args:
        source: the module to replace; its training-time jitter is dropped.
    """

    periods: Tensor

    def __init__(self, source: RotaryEmbeddingDinoV3) -> None:
        super().__init__(
            dim=source.dim,
            temperature=source.temperature,
            min_period=source.min_period,
            max_period=source.max_period,
            normalize_coords=source.normalize_coords,
            grid_offset=source.grid_offset,
            grid_indexing=source.grid_indexing,
            rotate_half=source.rotate_half,
        )
        self.register_buffer("periods", self.periods)  # now part of state dicts

    def get_embed(self, shape: GridSize, dtype: torch.dtype | None = None) -> Tensor:
        """Sines and cosines (N, 2 * d) of a grid (h, w), by default in the dtype of the periods."""
        standard = (self.normalize_coords, self.grid_offset, self.grid_indexing, self.rotate_half)
        if standard != ("separate", 0, "ij", True):
            return super().get_embed(shape, dtype)
        periods = self.periods
        points = reference_points((shape,), device=periods.device, dtype=periods.dtype)
        coordinates = 2 * points[0, :, 0].flip(-1) - 1  # (N, 2), (y, x) in (-1, 1)
        angles = (2 * math.pi * coordinates[..., None] / periods).flatten(1)  # (N, d/2)
        sines, cosines = angles.sin(), angles.cos()
        rotary = torch.cat([sines, sines, cosines, cosines], dim=-1)
        return rotary.to(dtype or periods.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> "StoredRope":
        with buffers_in_float32(self, "periods"):  # timm would compute them anew
            return nn.Module._apply(self, fn, *args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}periods", self.periods)  # a copy of the caller's dict
        super()._load_from_state_dict(state_dict, prefix, *args)
