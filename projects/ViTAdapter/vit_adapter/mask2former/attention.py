"""Blocks of both decoders of Mask2Former.

Shapes: B batch, Q queries, K keys, C embed dim, M heads.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vit_adapter.layers import GridSize, Linear, linear, linear_relu
from vit_adapter.layers.pyramid import cached_constant


class Attention(nn.Module):
    """Multi-head attention with the parameter names of :class:`torch.nn.MultiheadAttention`.

    That class would copy a boolean mask for each head.

    Args:
        embed_dim: width C.
        num_heads: heads M; must divide C.

    Raises:
        ValueError: the width is not a positive multiple of the heads.
    """

    def __init__(self, embed_dim: int, *, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
            raise ValueError(
                f"embed_dim must be a positive multiple of num_heads, got {embed_dim} and "
                f"{num_heads}"
            )
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw Xavier normal weights, with query, key and value as one matrix, and zero biases."""
        nn.init.xavier_normal_(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)
        nn.init.xavier_normal_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        allowed: Tensor | None = None,
        *,
        projected: bool = False,
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key: (B, K, C).
            value: (B, K, C).
            allowed: bool (B, 1, Q, K), True where a query may read a key; at least once per row.
            projected: whether key and value are already projected, see :func:`merge_projections`.

        Returns:
            (B, Q, C).
        """
        if query is key:
            query, key = self._project(query, 0, 2).chunk(2, -1)
        else:
            query = self._project(query, 0, 1)
            key = key if projected else self._project(key, 1, 2)
        value = value if projected else self._project(value, 2, 3)
        query, key, value = (
            tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for tokens in (query, key, value)
        )  # (B, M, Q or K, C/M)
        bias = None
        if allowed is not None:
            zero, least = cached_constant(_mask_values, (), query.device, query.dtype).unbind()
            bias = torch.where(allowed, zero, least)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _project(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        """Parts ``start`` to ``stop`` of (query, key, value), side by side."""
        rows = slice(start * tokens.shape[-1], stop * tokens.shape[-1])
        return linear(tokens, self.in_proj_weight[rows], self.in_proj_bias[rows])


def merge_projections(attentions: Sequence[Attention]) -> tuple[Tensor, ...]:
    """Join the projections of the keys and of the values of several attentions.

    Returns:
        Weight (n * C, C) and bias (n * C) for the keys, then for the values, of n attentions.
    """
    weights = [attention.in_proj_weight.chunk(3) for attention in attentions]
    biases = [attention.in_proj_bias.chunk(3) for attention in attentions]
    parts = [(parameters, part) for part in (1, 2) for parameters in (weights, biases)]
    return tuple(torch.cat([each[part] for each in parameters]) for parameters, part in parts)


def _mask_values(shapes: tuple[GridSize, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """What is added to the products of a query with keys it may read, and with the others."""
    values = torch.zeros(2, device=device, dtype=dtype)
    values[1].fill_(float("-inf"))
    return values


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, ``linear1`` and ``linear2``.

    Args:
        embed_dim: width C.
        hidden_dim: width between the two layers.
        use_checkpoint: recompute the hidden activations in the backward pass.

    Raises:
        ValueError: a width is below one.
    """

    def __init__(self, embed_dim: int, hidden_dim: int, *, use_checkpoint: bool = False) -> None:
        super().__init__()
        if min(embed_dim, hidden_dim) < 1:
            raise ValueError(f"widths must be at least 1, got {embed_dim} and {hidden_dim}")
        self.linear1 = Linear(embed_dim, hidden_dim)
        self.linear2 = Linear(hidden_dim, embed_dim)
        self.use_checkpoint = use_checkpoint
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw Xavier normal weights, and biases as :class:`torch.nn.Linear` does."""
        for layer in (self.linear1, self.linear2):
            layer.reset_parameters()
            nn.init.xavier_normal_(layer.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(self._compute, tokens, use_reentrant=False)
        return self._compute(tokens)

    def _compute(self, tokens: Tensor) -> Tensor:
        return self.linear2(linear_relu(tokens, self.linear1.weight, self.linear1.bias))
