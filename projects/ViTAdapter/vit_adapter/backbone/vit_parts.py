"""What plain Vision Transformers have in common: patches, MLP, attention and checks.

Shapes: B batch, C channels, H/W image sides in pixels, N tokens, D embed dim, M heads.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vit_adapter.backbone.trunk import check_images
from vit_adapter.layers import GridSize, Linear, map_to_tokens, scaled_dot_product_attention

LAYER_NORM_EPS = 1e-6
"""The epsilon of timm's ViT and of BEiT; PyTorch's default is 1e-5."""


class PatchEmbed(nn.Module):
    """Linear projection of non-overlapping patches."""

    def __init__(self, patch_size: int, embed_dim: int, in_channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Project (B, C, H, W) to row-major tokens (B, N, D)."""
        # Later layers repeatedly add to the tokens, which is slower on a strided view.
        return map_to_tokens(self.proj(images)).contiguous()


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.fc2(F.gelu(self.fc1(tokens)))


def attend(qkv: Tensor, num_heads: int, bias: Tensor | None = None) -> Tensor:
    """Softmax attention within each row of the batch.

    Args:
        qkv: (B, N, 3 * D), queries, keys and values, each split into heads.
        num_heads: heads M.
        bias: (M, N, N), added to the scaled products of query and key.

    Returns:
        (B, N, D).
    """
    # Splitting into q, k and v before heads joins the gradients with one copy instead of two.
    parts = qkv.chunk(3, -1)
    query, key, value = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in parts)
    mask = None if bias is None else bias[None]  # fused attention accepts only four dimensions
    attended = scaled_dot_product_attention(query, key, value, mask)
    return attended.transpose(1, 2).flatten(2)


def add_branch(
    tokens: Tensor, branch: Tensor, gamma: Tensor | None, drop_path: nn.Module | None = None
) -> Tensor:
    """Add a branch (B, N, D) to the tokens, scaled and sometimes dropped.

    Args:
        tokens: (B, N, D).
        branch: (B, N, D).
        gamma: the layer scale (D,), if there is one.
        drop_path: stochastic depth, if there is any.
    """
    dropping = drop_path is not None and drop_path.training
    if gamma is not None and not dropping and not torch.is_grad_enabled():
        return torch.addcmul(tokens, gamma, branch)
    scaled = branch if gamma is None else gamma * branch
    return tokens + (scaled if drop_path is None else drop_path(scaled))


def make_drop_path(rate: float) -> nn.Module:
    """Stochastic depth per image at ``rate`` in [0, 1)."""
    return DropPath(rate) if rate > 0 else nn.Identity()


def run_blocks(
    blocks: Iterable[nn.Module], tokens: Tensor, grid: GridSize, *, recompute: bool
) -> Tensor:
    """Run blocks, each called with tokens (B, N, D) and their grid (h, w).

    Args:
        blocks: the blocks, in order.
        tokens: (B, N, D).
        grid: grid of the patches among the tokens.
        recompute: recompute each block in the backward pass instead of storing its activations.
    """
    recompute = recompute and torch.is_grad_enabled()
    for block in blocks:
        if recompute:
            tokens = checkpoint(block, tokens, grid, use_reentrant=False)
        else:
            tokens = block(tokens, grid)
    return tokens


def patch_grid(images: Tensor, patch_size: int, channels: int) -> GridSize:
    """The grid (h, w) of the patches of (B, ``channels``, H, W).

    Raises:
        ValueError: the images are not a non-empty float batch, or the patch size does not divide
            their sides.
    """
    check_images(images, channels)
    height, width = images.shape[-2:]
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"image sides must be multiples of the patch size {patch_size}, got {height} x {width}"
        )
    return height // patch_size, width // patch_size


def check_arguments(
    patch_size: int,
    embed_dim: int,
    depth: int,
    num_heads: int,
    drop_path_rate: float,
    in_channels: int,
) -> None:
    """Refuse sizes of a ViT that do not fit together.

    Raises:
        ValueError: a count is below one, the heads do not divide the width, or the rate is outside
            [0, 1).
    """
    if min(patch_size, embed_dim, depth, num_heads) < 1:
        raise ValueError(
            "patch_size, embed_dim, depth and num_heads must be at least 1, "
            f"got {patch_size}, {embed_dim}, {depth}, {num_heads}"
        )
    check_in_channels(in_channels)
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim must be a multiple of num_heads {num_heads}, got {embed_dim}")
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"drop_path_rate must be in [0, 1), got {drop_path_rate}")


def check_in_channels(in_channels: int) -> None:
    """Raise a ValueError unless the number of channels is at least 1."""
    if in_channels < 1:
        raise ValueError(f"in_channels must be at least 1, got {in_channels}")


def check_img_size(img_size: int | Sequence[int], patch_size: int) -> GridSize:
    """The grid (h, w) of pre-training images, given their side or (height, width) in pixels.

    Raises:
        ValueError: not one or two positive multiples of the patch size.
    """
    sides = [img_size, img_size] if isinstance(img_size, int) else list(img_size)
    if len(sides) != 2 or any(side < 1 or side % patch_size for side in sides):
        raise ValueError(
            f"img_size must be a multiple of patch_size {patch_size}, got {img_size}; expected one "
            "positive side or (height, width), in pixels"
        )
    return sides[0] // patch_size, sides[1] // patch_size


def check_window_sizes(window_sizes: Sequence[int], depth: int) -> list[int]:
    """The window of every block, 0 for global attention; () makes all blocks global.

    Raises:
        ValueError: not one non-negative integer for each block.
    """
    sizes = list(window_sizes) or [0] * depth
    if len(sizes) != depth or any(not isinstance(size, int) or size < 0 for size in sizes):
        raise ValueError(
            f"window_sizes must be empty or hold one integer >= 0 for each of the {depth} blocks "
            f"(0 for global attention), got {sizes}"
        )
    return sizes
