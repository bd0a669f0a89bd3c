"""Pixel decoder of Mask2Former (arXiv 2112.01527, section 3.2.1) with deformable attention.

A multi-scale deformable attention encoder (Deformable DETR, arXiv 2010.04159) over strides 32, 16
and 8, followed by one step of a feature pyramid to stride 4.

Parameter names and the original's (under ``decode_head.pixel_decoder``): ``input_convs.{i}.{conv,
gn}``, ``lateral_convs.{i}.{conv, gn}``, ``output_convs.{i}.{conv, gn}``, ``level_encoding`` and
``mask_feature`` are the same; in ``encoder.layers.{i}``: ``self_attn`` (attentions.0), ``norm1``,
``norm2`` (norms.0, norms.1), ``ffn.linear1`` (ffns.0.layers.0.0), ``ffn.linear2``
(ffns.0.layers.1).

Shapes: B batch, C embed dim, H/W grid of one level, S tokens of all encoder levels, G mask
channels.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from vit_adapter.layers import (
    GridSize,
    MSDeformAttn,
    map_to_tokens,
    reference_points,
    split_levels,
    to_fast_layout,
    tokens_to_map,
)
from vit_adapter.layers.derived import DerivesTensors
from vit_adapter.mask2former.attention import FeedForward
from vit_adapter.mask2former.position import sine_positions

_NORM_GROUPS = 32


class PixelFeatures(NamedTuple):
    """The output of a pixel decoder.

    Attributes:
        mask_features: (B, G, H/4, W/4); their products with the queries' embeddings are the masks.
        levels: maps (B, C, H, W) of all encoder levels, coarsest first.
    """

    mask_features: Tensor
    levels: list[Tensor]


class EncoderLayer(nn.Module):
    """Deformable self-attention over the tokens of all levels, and a feed-forward network.

    Args:
        embed_dim, num_heads, num_levels, num_points: see :class:`MSDeformAttn`.
        ffn_dim: hidden width of the feed-forward network.
        use_checkpoint: see :class:`FeedForward`.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        num_heads: int,
        num_levels: int,
        num_points: int,
        ffn_dim: int,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.self_attn = MSDeformAttn(
            embed_dim, num_heads=num_heads, num_levels=num_levels, num_points=num_points
        )
        self.norm1 = nn.LayerNorm(embed_dim)
        self.ffn = FeedForward(embed_dim, ffn_dim, use_checkpoint=use_checkpoint)
        self.norm2 = nn.LayerNorm(embed_dim)

    def forward(
        self, tokens: Tensor, positions: Tensor, points: Tensor, shapes: Sequence[GridSize]
    ) -> Tensor:
        """Refine the tokens.

        Args:
            tokens: (B, S, C).
            positions: (1, S, C), added to the queries but not to the values.
            points: (1, S, 1, 2) reference points, (x, y) in [0, 1].
            shapes: (H, W) of each level.

        Returns:
            (B, S, C).
        """
        attended = self.self_attn(tokens + positions, points, tokens, shapes)
        tokens = self.norm1(tokens + attended)
        return self.norm2(tokens + self.ffn(tokens))


class Encoder(nn.Module):
    """A stack of encoder layers, named ``layers``."""

    def __init__(self, layers: Sequence[EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def sharding_units(self) -> Sequence[nn.Module]:
        """Parts that ``train.parallel=fsdp`` gathers one at a time: the layers."""
        return self.layers

    def forward(self, tokens: Tensor, positions: Tensor, shapes: Sequence[GridSize]) -> Tensor:
        """(B, S, C) -> (B, S, C); ``positions`` and ``shapes`` as in :class:`EncoderLayer`."""
        # Sampling locations are computed from these: half precision would shift them.
        wide = torch.promote_types(tokens.dtype, torch.float32)
        points = reference_points(shapes, device=tokens.device, dtype=wide)
        for layer in self.layers:
            tokens = layer(tokens, positions, points, shapes)
        return tokens


class MSDeformAttnPixelDecoder(DerivesTensors):
    """Refines the coarse levels of a pyramid together, then makes mask features at the finest one.

    Args:
        input_shape: name -> channels and stride of each feature map.
        embed_dim: width C; a multiple of 32 (the groups of the norms) and of the heads.
        mask_dim: channels G of the mask features.
        num_heads: heads of the deformable attention.
        ffn_dim: hidden width of the feed-forward networks.
        num_layers: encoder layers.
        num_encoder_levels: number of coarsest maps that go through the encoder; each of the others
            goes through one pyramid step.
        num_points: sampling points per head and level.
        use_checkpoint: recompute the feed-forward networks in the backward pass.

    Raises:
        ValueError: a count is below one, or the widths do not fit each other.
    """

    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        embed_dim: int,
        mask_dim: int,
        num_heads: int,
        ffn_dim: int,
        num_layers: int = 6,
        num_encoder_levels: int = 3,
        num_points: int = 4,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes(len(input_shape), num_encoder_levels, embed_dim, mask_dim, num_layers)
        self.embed_dim = embed_dim
        self.mask_dim = mask_dim
        names = sorted(input_shape, key=lambda name: -input_shape[name].stride)
        self.encoder_features = names[:num_encoder_levels]  # coarsest first
        self.fpn_features = names[num_encoder_levels:]
        channels = {name: input_shape[name].channels for name in names}

        self.input_convs = nn.ModuleList(
            _conv_norm(channels[name], embed_dim, bias=True) for name in self.encoder_features
        )
        self.level_encoding = nn.Embedding(num_encoder_levels, embed_dim)
        self.encoder = Encoder(
            [
                EncoderLayer(
                    embed_dim,
                    num_heads=num_heads,
                    num_levels=num_encoder_levels,
                    num_points=num_points,
                    ffn_dim=ffn_dim,
                    use_checkpoint=use_checkpoint,
                )
                for _ in range(num_layers)
            ]
        )
        self.lateral_convs = nn.ModuleList(
            _conv_norm(channels[name], embed_dim) for name in self.fpn_features
        )
        self.output_convs = nn.ModuleList(
            _conv_norm(embed_dim, embed_dim, kernel_size=3) for _ in self.fpn_features
        )
        self.mask_feature = nn.Conv2d(embed_dim, mask_dim, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise convolutions and levels as the original; layers initialise themselves."""
        for layer in self.input_convs:
            nn.init.xavier_uniform_(layer.conv.weight)
            nn.init.zeros_(layer.conv.bias)
        for layer in (*self.lateral_convs, *self.output_convs):
            weight_init.c2_xavier_fill(layer.conv)
        weight_init.c2_xavier_fill(self.mask_feature)
        nn.init.normal_(self.level_encoding.weight)

    def no_weight_decay(self) -> set[str]:
        """Names of the embeddings, which have no weight decay."""
        return {"level_encoding.weight"}

    def forward(self, features: Mapping[str, Tensor]) -> PixelFeatures:
        """Decode.

        Args:
            features: name -> (B, channels, H, W), with at least the names in ``input_shape``.

        Returns:
            The mask features at the finest stride, and the encoder's levels, coarsest first.

        Raises:
            ValueError: a feature map is missing.
        """
        missing = {*self.encoder_features, *self.fpn_features} - set(features)
        if missing:
            raise ValueError(f"feature maps {sorted(missing)} are missing, got {list(features)}")
        levels = self._encode([features[name] for name in self.encoder_features])
        finest = to_fast_layout(levels[-1])
        steps = zip(self.fpn_features, self.lateral_convs, self.output_convs, strict=True)
        for name, lateral, output in steps:
            current = lateral(features[name])
            upsampled = F.interpolate(
                finest, size=current.shape[-2:], mode="bilinear", align_corners=False
            )
            finest = F.relu(output(current + upsampled))
        return PixelFeatures(self.mask_feature(finest), levels)

    def _encode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Refine maps (B, channels, H, W), coarsest first, to (B, C, H, W)."""
        maps = [conv(features) for conv, features in zip(self.input_convs, maps, strict=True)]
        shapes = [(features.shape[-2], features.shape[-1]) for features in maps]
        tokens = torch.cat([map_to_tokens(features) for features in maps], 1)  # (B, S, C)
        key = tuple(shapes), tokens.dtype
        encoding = self.level_encoding.weight
        positions = self.derived.get([encoding], key, lambda: self._positions(*key))
        tokens = self.encoder(tokens, positions, shapes)
        return list(map(tokens_to_map, split_levels(tokens, shapes), shapes))

    def _positions(self, shapes: Sequence[GridSize], dtype: torch.dtype) -> Tensor:
        """What is added to the queries of all levels (1, S, C)."""
        encodings = self.level_encoding.weight
        wide = torch.promote_types(dtype, torch.float32)
        sines = sine_positions(shapes, self.embed_dim, device=encodings.device, dtype=wide)
        positions = torch.cat([p + e for p, e in zip(sines, encodings, strict=True)], 1)
        return positions.to(dtype)


def _check_sizes(
    num_maps: int, num_encoder_levels: int, embed_dim: int, mask_dim: int, num_layers: int
) -> None:
    if min(num_layers, mask_dim) < 1:
        raise ValueError(
            f"num_layers and mask_dim must be at least 1, got {num_layers} and {mask_dim}"
        )
    if not 1 <= num_encoder_levels <= num_maps:
        raise ValueError(
            f"num_encoder_levels must be 1 to {num_maps}, the number of feature maps, "
            f"got {num_encoder_levels}"
        )
    if embed_dim < 1 or embed_dim % _NORM_GROUPS:
        raise ValueError(
            f"embed_dim must be a positive multiple of {_NORM_GROUPS}, the groups of the norms, "
            f"got {embed_dim}"
        )


def _conv_norm(
    in_channels: int, out_channels: int, *, kernel_size: int = 1, bias: bool = False
) -> nn.Sequential:
    """A convolution that keeps the size, ``conv``, and a group norm, ``gn``."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
    norm = nn.GroupNorm(_NORM_GROUPS, out_channels)
    return nn.Sequential(OrderedDict(conv=conv, gn=norm))
