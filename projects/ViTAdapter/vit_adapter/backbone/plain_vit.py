"""The plain Vision Transformer (arXiv 2010.11929), for DeiT, AugReg, MAE and similar weights.

Parameter names follow timm; the layer scale is ``gamma1`` and ``gamma2``, as in the public
ViT-Adapter weights.

Shapes: B batch, H/W image sides in pixels, h/w grid of patches, N = h*w, D embed dim, M heads.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_adapter.backbone.lora import add_lora
from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.backbone.vit_parts import (
    LAYER_NORM_EPS,
    Mlp,
    PatchEmbed,
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
    ChannelLayerNorm,
    GridSize,
    Linear,
    map_to_tokens,
    resize_position_embedding,
    tokens_to_map,
    window_merge,
    window_partition,
)


class PlainViT(ViTTrunk):
    """ViT without a class token or final norm; blocks may have windows and residual bottlenecks.

    Initialised as timm's ViT (truncated normal with std 0.02 for linear layers and positions). The
    original leaves a trunk without a checkpoint at PyTorch's defaults, with all positions zero.

    Args:
        img_size: side in pixels of the square pre-training images; sets the size of
            ``pos_embed`` only.
        patch_size: side of a patch in pixels.
        in_channels: channels of the images.
        embed_dim: width D.
        depth: number of blocks.
        num_heads: attention heads M; must divide D.
        mlp_ratio: hidden width of the MLP relative to D.
        qkv_bias: whether queries, keys and values have a bias.
        layer_scale: whether a learned vector, initially one, scales both branches of each block.
        drop_path_rate: stochastic depth rate of the last block, in [0, 1); rises linearly from 0
            in the first.
        window_sizes: one side per block in tokens, 0 for global attention; () makes all blocks
            global.
        residual_indexes: blocks followed by a residual bottleneck that starts as the identity
            (ViTDet).
        use_checkpoint: recompute each block in the backward pass instead of storing its
            activations.
        lora_rank: rank of the LoRA factors in the attention of every block; 0 for none. With
            factors, only these and residual bottlenecks are trained.
        lora_alpha: the factors are scaled by ``lora_alpha / lora_rank``; None for scale 1.

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
        qkv_bias: bool = True,
        layer_scale: bool = True,
        drop_path_rate: float = 0.0,
        window_sizes: Sequence[int] = (),
        residual_indexes: Sequence[int] = (),
        use_checkpoint: bool = False,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
    ) -> None:
        super().__init__()
        check_arguments(patch_size, embed_dim, depth, num_heads, drop_path_rate, in_channels)
        window_sizes = check_window_sizes(window_sizes, depth)
        _check_residual_indexes(residual_indexes, depth)
        self.embed_dim = embed_dim
        self.depth = depth
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.norm_layer = partial(nn.LayerNorm, eps=LAYER_NORM_EPS)
        self.use_checkpoint = use_checkpoint
        self.pretrain_grid = check_img_size(img_size, patch_size)

        self.patch_embed = PatchEmbed(patch_size, embed_dim, in_channels)
        # The first row belongs to the class token of the pre-training. It is not used, but kept so
        # that the weights fit.
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.pretrain_grid[0] ** 2, embed_dim))
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                layer_scale=layer_scale,
                drop_path=drop_path_rate * index / max(depth - 1, 1),
                window_size=window_size,
                residual=index in residual_indexes,
            )
            for index, window_size in enumerate(window_sizes)
        )
        self.reset_parameters()
        self.lora_rank = lora_rank
        if lora_rank:
            add_lora(self, self.blocks, rank=lora_rank, alpha=lora_alpha)
            for index in residual_indexes:  # not pre-trained
                self.blocks[index].residual.requires_grad_(True)

    def reset_parameters(self) -> None:
        """Initialise as timm does; residual bottlenecks start as the identity."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, images: Tensor) -> tuple[Tensor, GridSize]:
        """See :meth:`ViTTrunk.embed`."""
        grid = patch_grid(images, self.patch_size, self.in_channels)
        positions = self.derived.get([self.pos_embed], grid, lambda: self._positions(grid))
        return self.patch_embed(images) + positions, grid

    def _positions(self, grid: GridSize) -> Tensor:
        return resize_position_embedding(self.pos_embed[:, 1:], self.pretrain_grid, grid)

    def forward_blocks(self, tokens: Tensor, grid: GridSize, start: int, stop: int) -> Tensor:
        """See :meth:`ViTTrunk.forward_blocks`."""
        return run_blocks(self.blocks[start:stop], tokens, grid, recompute=self.use_checkpoint)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """See :meth:`ViTTrunk.group_matcher`."""
        return {"stem": r"(?:pos_embed|patch_embed)\b", "blocks": r"blocks\.(\d+)\."}

    def no_weight_decay(self) -> set[str]:
        """See :meth:`ViTTrunk.no_weight_decay`."""
        return {"pos_embed"}


class Block(nn.Module):
    """Pre-norm transformer block, optionally followed by a residual bottleneck."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        layer_scale: bool,
        drop_path: float,
        window_size: int,
        residual: bool,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads=num_heads, qkv_bias=qkv_bias, window_size=window_size)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = make_drop_path(drop_path)
        self.gamma1 = nn.Parameter(torch.ones(dim)) if layer_scale else None
        self.gamma2 = nn.Parameter(torch.ones(dim)) if layer_scale else None
        self.residual = ResidualBottleneck(dim) if residual else None

    def forward(self, tokens: Tensor, grid: GridSize) -> Tensor:
        """(B, N, D) -> (B, N, D); ``grid`` is (h, w)."""
        attended = self.attn(self.norm1(tokens), grid)
        tokens = add_branch(tokens, attended, self.gamma1, self.drop_path)
        hidden = self.mlp(self.norm2(tokens))
        tokens = add_branch(tokens, hidden, self.gamma2, self.drop_path)
        return tokens if self.residual is None else self.residual(tokens, grid)


class Attention(nn.Module):
    """Multi-head self-attention, global or in square windows."""

    def __init__(self, dim: int, *, num_heads: int, qkv_bias: bool, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = Linear(dim, dim)

    def forward(self, tokens: Tensor, grid: GridSize) -> Tensor:
        """(B, N, D) -> (B, N, D). Windows are zero-padded after the projection, without a mask."""
        qkv = self.qkv(tokens)
        if not self.window_size:
            return self.proj(attend(qkv, self.num_heads))
        windows = attend(window_partition(qkv, grid, self.window_size), self.num_heads)
        return self.proj(window_merge(windows, grid, self.window_size))


class ResidualBottleneck(nn.Module):
    """ViTDet's convolutional propagation (arXiv 2203.16527, section 3).

    1x1 to D/2, 3x3, 1x1 back to D, added to the input: 3.25 D^2 weights in the convolutions. The
    last norm starts at zero, so the block starts as the identity and leaves pre-trained weights
    undisturbed. Parameter names are those of Detectron2's ViTDet.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden_dim = dim // 2
        self.conv1 = nn.Conv2d(dim, hidden_dim, 1, bias=False)
        self.norm1 = ChannelLayerNorm(hidden_dim, eps=LAYER_NORM_EPS)
        self.conv2 = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, bias=False)
        self.norm2 = ChannelLayerNorm(hidden_dim, eps=LAYER_NORM_EPS)
        self.conv3 = nn.Conv2d(hidden_dim, dim, 1, bias=False)
        self.norm3 = ChannelLayerNorm(dim, eps=LAYER_NORM_EPS)
        for conv in (self.conv1, self.conv2, self.conv3):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.norm3.weight)

    def forward(self, tokens: Tensor, grid: GridSize) -> Tensor:
        """(B, N, D) -> (B, N, D); ``grid`` is (h, w)."""
        x = tokens_to_map(tokens, grid)
        x = F.gelu(self.norm1(self.conv1(x)))
        x = F.gelu(self.norm2(self.conv2(x)))
        return tokens + map_to_tokens(self.norm3(self.conv3(x)))


def _check_residual_indexes(residual_indexes: Sequence[int], depth: int) -> None:
    wrong = [index for index in residual_indexes if not 0 <= index < depth]
    if wrong:
        raise ValueError(
            f"residual_indexes must be block numbers from 0 to {depth - 1}, got {wrong}"
        )
