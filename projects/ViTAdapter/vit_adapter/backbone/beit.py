"""The Vision Transformer of BEiT (arXiv 2106.08254) and BEiT v2 (arXiv 2208.06366).

Attention has a relative position bias instead of an absolute position embedding. Parameter names
are those of the public weights.

Shapes: B batch, H/W image sides in pixels, h/w grid of patches, N = h*w, D embed dim, M heads.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

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
from vit_adapter.layers import GridSize, Linear, linear, window_merge, window_partition
from vit_adapter.layers.derived import DerivesTensors
from vit_adapter.layers.relative_position import (
    NUM_CLASS_ROWS,
    num_offsets,
    relative_position_bias,
    resize_offsets,
)


class BEiT(ViTTrunk):
    """BEiT without a final norm, with global or windowed attention, for images of any size.

    The original's segmentors use global attention and a class token; its detectors use windows in
    every block and no class token. The original's position biases fit one image size only. Here the
    table of a global block is resized in each forward pass to the grid of the image (see
    :func:`vit_adapter.layers.relative_position.resize_offsets`); at ``img_size`` it is used as is.

    Args:
        img_size: side of square images, or (height, width), in pixels; sets the size of the
            tables of the global blocks.
        patch_size: side of a patch in pixels.
        in_channels: channels of the images.
        embed_dim: width D.
        depth: number of blocks.
        num_heads: attention heads M; must divide D.
        mlp_ratio: hidden width of the MLP relative to D.
        qkv_bias: whether queries and values have a bias (keys never do).
        init_values: initial layer scale of both branches of each block; None for no layer scale.
        class_token: whether a learned token precedes the patches in the blocks; for global
            attention only.
        drop_path_rate: stochastic depth rate of the last block, in [0, 1); rises linearly from 0
            in the first.
        window_sizes: one side per block in tokens, 0 for global attention; () makes all blocks
            global. The table of a windowed block is made for its window.
        use_checkpoint: recompute each block in the backward pass instead of storing its
            activations.

    Raises:
        ValueError: the arguments do not fit together.
    """

    def __init__(
        self,
        *,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        init_values: float | None = 1e-6,
        class_token: bool = True,
        drop_path_rate: float = 0.0,
        window_sizes: Sequence[int] = (),
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_arguments(patch_size, embed_dim, depth, num_heads, drop_path_rate, in_channels)
        window_sizes = check_window_sizes(window_sizes, depth)
        if class_token and any(window_sizes):
            raise ValueError(
                "windows cannot hold a class token: set window_sizes=() or class_token=False, "
                f"got window_sizes={window_sizes}"
            )
        self.embed_dim = embed_dim
        self.depth = depth
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.num_prefix_tokens = int(class_token)
        self.norm_layer = partial(nn.LayerNorm, eps=LAYER_NORM_EPS)
        self.use_checkpoint = use_checkpoint

        native_grid = check_img_size(img_size, patch_size)
        self.patch_embed = PatchEmbed(patch_size, embed_dim, in_channels)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                init_values=init_values,
                class_token=class_token,
                drop_path=drop_path_rate * index / max(depth - 1, 1),
                native_grid=(window_size, window_size) if window_size else native_grid,
                windowed=bool(window_size),
            )
            for index, window_size in enumerate(window_sizes)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the original does: truncated normal with std 0.02, zero position biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        fan_out = self.embed_dim * self.patch_size**2
        nn.init.normal_(self.patch_embed.proj.weight, std=math.sqrt(2 / fan_out))
        nn.init.zeros_(self.patch_embed.proj.bias)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def embed(self, images: Tensor) -> tuple[Tensor, GridSize]:
        """See :meth:`ViTTrunk.embed`; there is no position embedding."""
        grid = patch_grid(images, self.patch_size, self.in_channels)
        tokens = self.patch_embed(images)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        return tokens, grid

    def forward_blocks(self, tokens: Tensor, grid: GridSize, start: int, stop: int) -> Tensor:
        """See :meth:`ViTTrunk.forward_blocks`."""
        return run_blocks(self.blocks[start:stop], tokens, grid, recompute=self.use_checkpoint)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """See :meth:`ViTTrunk.group_matcher`."""
        return {"stem": r"(?:cls_token|patch_embed)\b", "blocks": r"blocks\.(\d+)\."}

    def no_weight_decay(self) -> set[str]:
        """See :meth:`ViTTrunk.no_weight_decay`."""
        tables = {
            f"blocks.{index}.attn.relative_position_bias_table" for index in range(self.depth)
        }
        return {"cls_token"} | tables


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        init_values: float | None,
        class_token: bool,
        drop_path: float,
        native_grid: GridSize,
        windowed: bool,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(
            dim,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            class_token=class_token,
            native_grid=native_grid,
            windowed=windowed,
        )
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = make_drop_path(drop_path)
        scale = None if init_values is None else torch.full((dim,), float(init_values))
        self.gamma_1 = None if scale is None else nn.Parameter(scale)
        self.gamma_2 = None if scale is None else nn.Parameter(scale.clone())

    def forward(self, tokens: Tensor, grid: GridSize) -> Tensor:
        """(B, N, D), with the class token N + 1, -> the same; ``grid`` is (h, w)."""
        attended = self.attn(self.norm1(tokens), grid)
        tokens = add_branch(tokens, attended, self.gamma_1, self.drop_path)
        hidden = self.mlp(self.norm2(tokens))
        return add_branch(tokens, hidden, self.gamma_2, self.drop_path)


class Attention(DerivesTensors):
    """Multi-head self-attention with a relative position bias, global or in square windows.

    Args:
        dim: width D.
        num_heads: heads M.
        qkv_bias: whether queries and values have a bias.
        class_token: whether the first token is a class token.
        native_grid: (h, w) that the table is made for; the window if ``windowed``.
        windowed: whether tokens attend within windows of ``native_grid``.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        qkv_bias: bool,
        class_token: bool,
        native_grid: GridSize,
        windowed: bool,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.class_token = class_token
        self.native_grid = native_grid
        self.windowed = windowed
        self.qkv = Linear(dim, dim * 3, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        rows = num_offsets(native_grid) + NUM_CLASS_ROWS * class_token
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
        self.proj = Linear(dim, dim)

    def forward(self, tokens: Tensor, grid: GridSize) -> Tensor:
        """(B, N, D) -> (B, N, D). Windows are zero-padded before the projection, without a mask."""
        if not self.windowed:
            return self.proj(self._attend(tokens, grid))
        size = self.native_grid[0]
        windows = self._attend(window_partition(tokens, grid, size), self.native_grid)
        return self.proj(window_merge(windows, grid, size))

    def _attend(self, tokens: Tensor, grid: GridSize) -> Tensor:
        bias = None
        if self.q_bias is not None:
            bias = self.derived.get((self.q_bias, self.v_bias), "qkv", self._qkv_bias)
        qkv = linear(tokens, self.qkv.weight, bias)
        return attend(qkv, self.num_heads, self._position_bias(grid, qkv.dtype))

    def _qkv_bias(self) -> Tensor:
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def _position_bias(self, grid: GridSize, dtype: torch.dtype) -> Tensor:
        """Bias (M, N, N) of a grid, class token included, in the dtype of the attention."""
        table = self.relative_position_bias_table

        def make() -> Tensor:
            resized = resize_offsets(table, self.native_grid, grid).to(dtype)
            return relative_position_bias(resized, grid, class_token=self.class_token)

        return self.derived.get((table,), (grid, dtype), make)
