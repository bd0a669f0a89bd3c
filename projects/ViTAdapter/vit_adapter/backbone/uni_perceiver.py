"""The image encoder of Uni-Perceiver (arXiv 2112.01522).

A pre-norm transformer whose embedding adds a position in space and one in time; an image has the
first position in time. Parameter names are those of the public weights.

Shapes: B batch, H/W image sides in pixels, h/w grid of patches, N = h*w, D embed dim, M heads.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.backbone.vit_parts import (
    add_branch,
    attend,
    check_arguments,
    check_img_size,
    check_window_sizes,
    make_drop_path,
    patch_grid,
    run_blocks,
)
from vit_adapter.layers import (
    GridSize,
    Linear,
    map_to_tokens,
    resize_position_embedding,
    window_merge,
    window_partition,
)
from vit_adapter.layers.derived import DerivesTensors

NUM_FRAMES = 8
"""Number of positions in time in the public weights."""


class UniPerceiver(ViTTrunk):
    """Uni-Perceiver's encoder, for images only; layer norms have an epsilon of 1e-5.

    Layer scales start at zero, as in the original: without pre-trained weights, the layers
    initially change nothing.

    Args:
        img_size: side in pixels of the square pre-training images; sets the number of positions.
        patch_size: side of a patch in pixels.
        in_channels: channels of the images.
        embed_dim: width D.
        depth: number of layers.
        num_heads: attention heads M; must divide D.
        mlp_ratio: hidden width of the feed-forward network relative to D.
        drop_path_rate: stochastic depth rate of the last layer, in [0, 1); rises linearly from 0
            in the first.
        window_sizes: one side per layer in tokens, 0 for global attention; () makes all global.
        use_checkpoint: recompute each layer in the backward pass instead of storing its
            activations.

    Raises:
        ValueError: the arguments do not fit together.
    """

    def __init__(
        self,
        *,
        img_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        window_sizes: Sequence[int] = (),
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_arguments(patch_size, embed_dim, depth, num_heads, drop_path_rate, in_channels)
        window_sizes = check_window_sizes(window_sizes, depth)
        self.embed_dim = embed_dim
        self.depth = depth
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.norm_layer = nn.LayerNorm
        self.use_checkpoint = use_checkpoint
        grid = check_img_size(img_size, patch_size)
        self.visual_embed = VisualEmbedding(
            embed_dim, patch_size=patch_size, in_channels=in_channels, pretrain_grid=grid
        )
        self.layers = nn.ModuleList(
            Layer(
                embed_dim,
                num_heads=num_heads,
                hidden_dim=int(embed_dim * mlp_ratio),
                drop_path=drop_path_rate * index / max(depth - 1, 1),
                window_size=window_size,
            )
            for index, window_size in enumerate(window_sizes)
        )

    def embed(self, images: Tensor) -> tuple[Tensor, GridSize]:
        """See :meth:`ViTTrunk.embed`."""
        grid = patch_grid(images, self.patch_size, self.in_channels)
        return self.visual_embed(images, grid), grid

    def forward_blocks(self, tokens: Tensor, grid: GridSize, start: int, stop: int) -> Tensor:
        """See :meth:`ViTTrunk.forward_blocks`."""
        return run_blocks(self.layers[start:stop], tokens, grid, recompute=self.use_checkpoint)

    def blocks_from(self, start: int) -> Sequence[nn.Module]:
        """See :meth:`ViTTrunk.blocks_from`."""
        return self.layers[start:]

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """See :meth:`ViTTrunk.group_matcher`."""
        return {"stem": r"visual_embed\.", "blocks": r"layers\.(\d+)\."}

    def no_weight_decay(self) -> set[str]:
        """See :meth:`ViTTrunk.no_weight_decay`."""
        embed = "visual_embed.patch_embed"
        return {f"{embed}.spatial_pos_embed.weight", f"{embed}.temporal_pos_embed.weight"}


class VisualEmbedding(nn.Module):
    """Patches with their positions, normalised."""

    def __init__(
        self, dim: int, *, patch_size: int, in_channels: int, pretrain_grid: GridSize
    ) -> None:
        super().__init__()
        self.patch_embed = PositionedPatchEmbed(dim, patch_size, in_channels, pretrain_grid)
        self.embeddings_norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor, grid: GridSize) -> Tensor:
        """(B, C, H, W) -> (B, N, D); ``grid`` is (h, w)."""
        return self.embeddings_norm(self.patch_embed(images, grid))


class PositionedPatchEmbed(DerivesTensors):
    """Linear projection of patches, plus their position in space and the first one in time."""

    def __init__(
        self, dim: int, patch_size: int, in_channels: int, pretrain_grid: GridSize
    ) -> None:
        super().__init__()
        self.pretrain_grid = pretrain_grid
        self.spatial_pos_embed = nn.Embedding(pretrain_grid[0] * pretrain_grid[1], dim)
        self.temporal_pos_embed = nn.Embedding(NUM_FRAMES, dim)
        self.proj = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor, grid: GridSize) -> Tensor:
        """(B, C, H, W) -> (B, N, D); positions are resized to ``grid`` (h, w)."""
        places = self.derived.get(
            [self.spatial_pos_embed.weight],
            grid,
            lambda: resize_position_embedding(
                self.spatial_pos_embed.weight[None], self.pretrain_grid, grid
            ),
        )
        return map_to_tokens(self.proj(images)) + places + self.temporal_pos_embed.weight[0]


class Layer(nn.Module):
    """Pre-norm transformer layer with layer scale."""

    def __init__(
        self, dim: int, *, num_heads: int, hidden_dim: int, drop_path: float, window_size: int
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = Attention(dim, num_heads=num_heads, window_size=window_size)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = Linear(dim, hidden_dim)
        self.linear2 = Linear(hidden_dim, dim)
        self.drop_path = make_drop_path(drop_path)
        self.gamma_1 = nn.Parameter(torch.zeros(dim))
        self.gamma_2 = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens: Tensor, grid: GridSize) -> Tensor:
        """(B, N, D) -> (B, N, D); ``grid`` is (h, w)."""
        attended = self.self_attn(self.norm1(tokens), grid)
        tokens = add_branch(tokens, attended, self.gamma_1, self.drop_path)
        hidden = self.linear2(F.gelu(self.linear1(self.norm2(tokens))))
        return add_branch(tokens, hidden, self.gamma_2, self.drop_path)


class Attention(nn.Module):
    """Multi-head self-attention, global or in square windows."""

    def __init__(self, dim: int, *, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.in_proj = Linear(dim, dim * 3)
        self.out_proj = Linear(dim, dim)

    def forward(self, tokens: Tensor, grid: GridSize) -> Tensor:
        """(B, N, D) -> (B, N, D). Windows are zero-padded before the projection, without a mask."""
        if not self.window_size:
            return self.out_proj(attend(self.in_proj(tokens), self.num_heads))
        windows = window_partition(tokens, grid, self.window_size)
        windows = attend(self.in_proj(windows), self.num_heads)
        return self.out_proj(window_merge(windows, grid, self.window_size))
