"""Transformer decoder of Mask2Former with masked attention (arXiv 2112.01527, section 3.2).

Parameter names and the original's: ``query_embed``, ``query_feat``, ``level_embed``, ``cls_embed``
and ``mask_embed`` are the same (there directly under ``decode_head``), ``post_norm`` is
``transformer_decoder.post_norm``; in ``layers.{i}`` (``transformer_decoder.layers.{i}``):
``cross_attn`` and ``self_attn`` (attentions.0.attn, attentions.1.attn), ``norm1`` to ``norm3``
(norms.0 to norms.2), ``ffn.linear1`` (ffns.0.layers.0.0), ``ffn.linear2`` (ffns.0.layers.1).

Shapes: B batch, C embed dim, H/W grid of one level, G mask channels, h/w grid of the mask features
(stride 4), Q queries, K classes.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_adapter.layers import GridSize, Linear, linear, linear_relu, map_to_tokens
from vit_adapter.layers.derived import DerivesTensors
from vit_adapter.mask2former.attention import Attention, FeedForward, merge_projections
from vit_adapter.mask2former.pixel_decoder import PixelFeatures
from vit_adapter.mask2former.position import sine_positions


class MaskPredictions(NamedTuple):
    """What the queries predict at one point of the decoder.

    Attributes:
        class_logits: (B, Q, K + 1); the last class is "no object".
        mask_logits: (B, Q, h, w).
    """

    class_logits: Tensor
    mask_logits: Tensor


class Memory(NamedTuple):
    """The tokens of one level as keys and values.

    Attributes:
        key: (B, H*W, C), with positions.
        value: (B, H*W, C), without positions.
        projected: whether they have gone through the projections of a layer.
    """

    key: Tensor
    value: Tensor
    projected: bool


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and a feed-forward network, each followed by a norm.

    Args:
        embed_dim, num_heads: see :class:`Attention`.
        ffn_dim: hidden width of the feed-forward network.
        use_checkpoint: see :class:`FeedForward`.
    """

    def __init__(
        self, embed_dim: int, *, num_heads: int, ffn_dim: int, use_checkpoint: bool = False
    ) -> None:
        super().__init__()
        self.cross_attn = Attention(embed_dim, num_heads=num_heads)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.self_attn = Attention(embed_dim, num_heads=num_heads)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.ffn = FeedForward(embed_dim, ffn_dim, use_checkpoint=use_checkpoint)
        self.norm3 = nn.LayerNorm(embed_dim)

    def forward(
        self,
        query: Tensor,
        query_position: Tensor,
        memory: "Memory",
        allowed: Tensor,
    ) -> Tensor:
        """Refine the queries.

        Args:
            query: (B, Q, C).
            query_position: (Q, C), added to the queries, and to the keys of the self-attention.
            memory: what the queries read of one level.
            allowed: bool (B, 1, Q, H*W), which cells each query may read.

        Returns:
            (B, Q, C).
        """
        key, value, projected = memory
        attended = self.cross_attn(query + query_position, key, value, allowed, projected=projected)
        query = self.norm1(query + attended)
        positioned = query + query_position
        query = self.norm2(query + self.self_attn(positioned, positioned, query))
        return self.norm3(query + self.ffn(query))


class MaskedTransformerDecoder(DerivesTensors):
    """Queries that attend to the levels in turn, each within the last mask it predicted.

    Args:
        num_classes: classes K, without "no object".
        num_queries: queries Q.
        embed_dim: width C, as in the pixel decoder; a multiple of 4 and of the heads.
        mask_dim: channels G of the mask features.
        num_heads: heads of both attentions.
        ffn_dim: hidden width of the feed-forward networks.
        num_layers: number of layers; layer i attends to level i modulo ``num_levels``, where level
            0 is the coarsest.
        num_levels: number of levels used.
        use_checkpoint: recompute the feed-forward networks in the backward pass.

    Raises:
        ValueError: a count is below one, or the width does not fit.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_queries: int,
        embed_dim: int,
        mask_dim: int,
        num_heads: int,
        ffn_dim: int,
        num_layers: int = 9,
        num_levels: int = 3,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        counts = {
            "num_classes": num_classes,
            "num_queries": num_queries,
            "mask_dim": mask_dim,
            "num_layers": num_layers,
            "num_levels": num_levels,
        }
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if embed_dim % 4:
            raise ValueError(f"embed_dim must be a multiple of 4, got {embed_dim}")
        self.embed_dim = embed_dim
        self.mask_dim = mask_dim
        self.num_classes = num_classes
        self.num_levels = num_levels
        self.query_feat = nn.Embedding(num_queries, embed_dim)
        self.query_embed = nn.Embedding(num_queries, embed_dim)
        self.level_embed = nn.Embedding(num_levels, embed_dim)
        self.layers = nn.ModuleList(
            DecoderLayer(
                embed_dim, num_heads=num_heads, ffn_dim=ffn_dim, use_checkpoint=use_checkpoint
            )
            for _ in range(num_layers)
        )
        self.post_norm = nn.LayerNorm(embed_dim)
        self.cls_embed = Linear(embed_dim, num_classes + 1)
        self.mask_embed = nn.Sequential(
            Linear(embed_dim, embed_dim),
            nn.ReLU(),
            Linear(embed_dim, embed_dim),
            nn.ReLU(),
            Linear(embed_dim, mask_dim),
        )

    def no_weight_decay(self) -> set[str]:
        """Names of the embeddings, which have no weight decay."""
        return {"query_feat.weight", "query_embed.weight", "level_embed.weight"}

    def sharding_units(self) -> Sequence[nn.Module]:
        """Parts that ``train.parallel=fsdp`` gathers one at a time: the layers."""
        return self.layers

    def forward(
        self, features: PixelFeatures, *, intermediate: bool = False
    ) -> list[MaskPredictions]:
        """Decode.

        Args:
            features: from the pixel decoder, with at least ``num_levels`` levels.
            intermediate: also return the predictions before each layer, for deep supervision in
                training.

        Returns:
            The predictions before the first layer and after each layer, or only those after the
            last one.

        Raises:
            ValueError: there are too few levels.
        """
        if len(features.levels) < self.num_levels:
            raise ValueError(
                f"expected at least {self.num_levels} levels, got {len(features.levels)}"
            )
        levels = features.levels[: self.num_levels]
        memories = self._memories(levels)
        if not torch.is_grad_enabled():
            memories = self._project(memories)
        resized = _resize_each(features.mask_features, levels)
        query = self.query_feat.weight.expand(levels[0].shape[0], -1, -1)  # (B, Q, C)
        position = self.query_embed.weight
        predictions = []
        for i, layer in enumerate(self.layers):
            normed = self.post_norm(query)
            embedding = self._embed_masks(normed)
            if intermediate:
                predictions.append(self._predict(normed, embedding, features.mask_features))
            at = i % self.num_levels
            allowed = _inside_of_masks(embedding, resized[at])
            query = layer(query, position, memories[i % len(memories)], allowed)
        normed = self.post_norm(query)
        embedding = self._embed_masks(normed)
        predictions.append(self._predict(normed, embedding, features.mask_features))
        return predictions

    def _memories(self, levels: Sequence[Tensor]) -> list[Memory]:
        """Make keys and values of each level."""
        shapes = tuple((level.shape[-2], level.shape[-1]) for level in levels)
        embeddings = self.level_embed.weight
        key = shapes, levels[0].dtype
        # Large, so they are kept with this module's weights and not as constants.
        positions = self.derived.get([embeddings], key, lambda: self._positions(*key))
        values = [map_to_tokens(x) + e for x, e in zip(levels, embeddings, strict=True)]
        return [Memory(v + p, v, False) for v, p in zip(values, positions, strict=True)]

    def _positions(self, shapes: Sequence[GridSize], dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The positions (1, H*W, C) of each level."""
        wide = torch.promote_types(dtype, torch.float32)
        device = self.level_embed.weight.device
        sines = sine_positions(shapes, self.embed_dim, device=device, dtype=wide)
        return tuple(positions.to(dtype) for positions in sines)

    def _project(self, memories: Sequence[Memory]) -> list[Memory]:
        """Project keys and values for all layers, with one matrix product for each level.

        Only for inference: parameters of layers are read outside them.
        """
        projected: list[list[Memory]] = []
        for level, (key, value, _) in enumerate(memories[: len(self.layers)]):
            attentions = [layer.cross_attn for layer in self.layers[level :: self.num_levels]]
            sources = [p for a in attentions for p in (a.in_proj_weight, a.in_proj_bias)]
            weights = self.derived.get(sources, level, partial(merge_projections, attentions))
            keys = linear(key, *weights[:2]).chunk(len(attentions), -1)
            values = linear(value, *weights[2:]).chunk(len(attentions), -1)
            projected.append([Memory(*pair, True) for pair in zip(keys, values, strict=True)])
        return [
            projected[i % self.num_levels][i // self.num_levels] for i in range(len(self.layers))
        ]

    def _embed_masks(self, normed: Tensor) -> Tensor:
        """Make the mask embeddings (B, Q, G) of normed queries (B, Q, C)."""
        first, _, second, _, last = self.mask_embed
        for layer in (first, second):
            normed = linear_relu(normed, layer.weight, layer.bias)
        return last(normed)

    def _predict(self, normed: Tensor, embedding: Tensor, mask_features: Tensor) -> MaskPredictions:
        """Predict from normed queries (B, Q, C) and their mask embeddings (B, Q, G)."""
        masks = embedding @ mask_features.flatten(2)  # (B, Q, h*w)
        return MaskPredictions(
            self.cls_embed(normed), masks.unflatten(-1, mask_features.shape[-2:])
        )


@torch.no_grad()
def _resize_each(mask_features: Tensor, levels: Sequence[Tensor]) -> list[Tensor]:
    """Resize the mask features (B, G, h, w) to (B, G, H*W) of each level.

    A mask is a weighted sum of the features and resizing is linear, so masks of the resized
    features are the resized masks. This resizes the features once instead of every layer's masks.
    """
    return [
        F.interpolate(
            mask_features, size=level.shape[-2:], mode="bilinear", align_corners=False
        ).flatten(2)
        for level in levels
    ]


@torch.no_grad()
def _inside_of_masks(embedding: Tensor, resized_features: Tensor) -> Tensor:
    """Find the cells that each query's mask covers, or all cells if it covers none.

    Args:
        embedding: mask embeddings (B, Q, G).
        resized_features: (B, G, H*W).

    Returns:
        bool (B, 1, Q, H*W), the same for all heads: whether the mask's probability is at least one
        half.
    """
    inside = embedding @ resized_features >= 0
    return (inside == inside.any(-1, keepdim=True))[:, None]
