"""The exchange between ViT tokens and the pyramid of prior tokens (arXiv 2205.08534, section 3.4).

Shapes: B batch, D embed dim, N ViT tokens (stride 16), S prior tokens (strides 8, 16 and 32).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vit_adapter.backbone.vit_parts import add_branch
from vit_adapter.layers import (
    GridSize,
    Linear,
    MSDeformAttn,
    PyramidGeometry,
    map_to_tokens,
    reference_points,
    split_levels,
    tokens_to_map,
)

NUM_PRIOR_LEVELS = 3


@dataclass(frozen=True)
class InteractionSettings:
    """The settings that all injectors and extractors of an adapter share.

    Attributes:
        embed_dim: width D.
        norm_layer: builds a LayerNorm of a given width.
        num_heads, num_points, deform_ratio: of the deformable attention, see :class:`MSDeformAttn`.
        init_values: initial value of the injectors' ``gamma``.
        with_cffn: whether extractors have a convolutional feed-forward network.
        cffn_ratio: its hidden width relative to D.
        drop_path: its stochastic depth, the same in every extractor, in [0, 1).
    """

    embed_dim: int
    norm_layer: Callable[[int], nn.Module]
    num_heads: int
    num_points: int
    deform_ratio: float
    init_values: float
    with_cffn: bool
    cffn_ratio: float
    drop_path: float

    def __post_init__(self) -> None:
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {self.drop_path}")

    def attention(self, num_levels: int) -> MSDeformAttn:
        """Make the deformable attention over a pyramid of ``num_levels`` levels."""
        return MSDeformAttn(
            self.embed_dim,
            num_heads=self.num_heads,
            num_levels=num_levels,
            num_points=self.num_points,
            deform_ratio=self.deform_ratio,
        )


class Injector(nn.Module):
    """Adds spatial priors to the ViT tokens, scaled by a learned ``gamma``."""

    def __init__(self, settings: InteractionSettings) -> None:
        super().__init__()
        dim = settings.embed_dim
        self.query_norm = settings.norm_layer(dim)
        self.feat_norm = settings.norm_layer(dim)
        self.attn = settings.attention(NUM_PRIOR_LEVELS)
        self.gamma = nn.Parameter(torch.full((dim,), float(settings.init_values)))

    def forward(
        self, vit_tokens: Tensor, prior_tokens: Tensor, geometry: PyramidGeometry
    ) -> Tensor:
        """Update the ViT tokens (B, N, D), without prefix, from the prior tokens (B, S, D)."""
        points = _centres((geometry.vit_shape,), vit_tokens)
        attended = self.attn(
            self.query_norm(vit_tokens), points, self.feat_norm(prior_tokens), geometry.prior_shapes
        )
        return add_branch(vit_tokens, attended, self.gamma)


class BaseExtractor(nn.Module, ABC):
    """Reads the ViT tokens into the prior tokens and mixes neighbours with a convolutional FFN."""

    def __init__(self, settings: InteractionSettings) -> None:
        super().__init__()
        dim = settings.embed_dim
        self.build_reading(settings)
        self.with_cffn = settings.with_cffn
        if self.with_cffn:
            self.ffn = ConvFFN(dim, int(dim * settings.cffn_ratio))
            self.ffn_norm = settings.norm_layer(dim)
            self.drop_path = (
                DropPath(settings.drop_path) if settings.drop_path > 0 else nn.Identity()
            )

    @abstractmethod
    def build_reading(self, settings: InteractionSettings) -> None:
        """Build the submodules that :meth:`read` uses."""

    @abstractmethod
    def read(self, prior_tokens: Tensor, vit_tokens: Tensor, geometry: PyramidGeometry) -> Tensor:
        """Compute what is added to the prior tokens: (B, S, D) and (B, N, D) -> (B, S, D)."""

    def forward(
        self, prior_tokens: Tensor, vit_tokens: Tensor, geometry: PyramidGeometry
    ) -> Tensor:
        """Update the prior tokens (B, S, D) from the ViT tokens (B, N, D), without prefix."""
        prior_tokens = prior_tokens + self.read(prior_tokens, vit_tokens, geometry)
        if not self.with_cffn:
            return prior_tokens
        mixed = self.ffn(self.ffn_norm(prior_tokens), geometry.prior_shapes)
        return prior_tokens + self.drop_path(mixed)


class Extractor(BaseExtractor):
    """The paper's extractor, which reads by deformable attention."""

    def build_reading(self, settings: InteractionSettings) -> None:
        """See :meth:`BaseExtractor.build_reading`."""
        self.query_norm = settings.norm_layer(settings.embed_dim)
        self.feat_norm = settings.norm_layer(settings.embed_dim)
        self.attn = settings.attention(1)

    def read(self, prior_tokens: Tensor, vit_tokens: Tensor, geometry: PyramidGeometry) -> Tensor:
        """See :meth:`BaseExtractor.read`."""
        points = _centres(geometry.prior_shapes, prior_tokens)
        return self.attn(
            self.query_norm(prior_tokens), points, self.feat_norm(vit_tokens), (geometry.vit_shape,)
        )


class ConvFFN(nn.Module):
    """Feed-forward network with a depth-wise convolution, shared by the levels of the pyramid."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        if hidden_dim < 1:
            raise ValueError(
                f"embed_dim * cffn_ratio must be at least 1, got {hidden_dim} for embed_dim {dim}"
            )
        self.fc1 = Linear(dim, hidden_dim)
        self.dwconv = PyramidDWConv(hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, tokens: Tensor, spatial_shapes: Sequence[GridSize]) -> Tensor:
        """(B, S, D) -> (B, S, D); ``spatial_shapes`` are the (H, W) of the levels."""
        return self.fc2(F.gelu(self.dwconv(self.fc1(tokens), spatial_shapes)))


class PyramidDWConv(nn.Module):
    """Depth-wise 3x3 convolution with the same weights on each level of a token pyramid."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, tokens: Tensor, spatial_shapes: Sequence[GridSize]) -> Tensor:
        """(B, S, D) -> (B, S, D). Tokens are channels-last maps: nothing is transposed."""
        levels = zip(split_levels(tokens, spatial_shapes), spatial_shapes, strict=True)
        maps = [self.dwconv(tokens_to_map(level, grid)) for level, grid in levels]
        return torch.cat([map_to_tokens(features) for features in maps], 1)


class InteractionBlock(nn.Module):
    """An optional injector, a group of ViT blocks, and one or more extractors.

    Args:
        settings: see :class:`InteractionSettings`.
        with_injector: whether an injector updates the ViT tokens before the blocks.
        make_extractor: builds an extractor from the settings.
        num_extra_extractors: further extractors that run after the first, on the same ViT tokens.
        use_checkpoint: recompute injector and extractors in the backward pass.
    """

    def __init__(
        self,
        settings: InteractionSettings,
        *,
        with_injector: bool = True,
        make_extractor: Callable[[InteractionSettings], BaseExtractor] = Extractor,
        num_extra_extractors: int = 0,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.injector = Injector(settings) if with_injector else None
        self.extractor = make_extractor(settings)
        self.extra_extractors = nn.ModuleList(
            make_extractor(settings) for _ in range(num_extra_extractors)
        )
        self.use_checkpoint = use_checkpoint

    def forward(
        self,
        vit_tokens: Tensor,
        prior_tokens: Tensor,
        geometry: PyramidGeometry,
        run_blocks: Callable[[Tensor], Tensor],
        num_prefix_tokens: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Run one interaction.

        Args:
            vit_tokens: (B, num_prefix_tokens + N, D).
            prior_tokens: (B, S, D).
            geometry: the grids of both.
            run_blocks: the group of ViT blocks; takes and returns all ViT tokens, prefix included.
            num_prefix_tokens: leading tokens that injector and extractors do not see.

        Returns:
            The updated ViT tokens and the updated prior tokens.
        """
        if self.injector is not None:
            prefix, patches = vit_tokens[:, :num_prefix_tokens], vit_tokens[:, num_prefix_tokens:]
            patches = self._run(self.injector, patches, prior_tokens, geometry)
            vit_tokens = torch.cat([prefix, patches], 1) if num_prefix_tokens else patches
        vit_tokens = run_blocks(vit_tokens)
        patches = vit_tokens[:, num_prefix_tokens:]
        for extractor in (self.extractor, *self.extra_extractors):
            prior_tokens = self._run(extractor, prior_tokens, patches, geometry)
        return vit_tokens, prior_tokens

    def _run(
        self,
        module: Injector | BaseExtractor,
        query: Tensor,
        feat: Tensor,
        geometry: PyramidGeometry,
    ) -> Tensor:
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(module, query, feat, geometry, use_reentrant=False)
        return module(query, feat, geometry)


def _centres(shapes: Sequence[GridSize], tokens: Tensor) -> Tensor:
    """Reference points of the tokens of ``shapes``, in float32 or wider."""
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    return reference_points(shapes, device=tokens.device, dtype=dtype)
