"""Windowed attention for the blocks of timm's plain ViTs, whose own attention is global.

Shapes: B batch, h/w grid of patches, N = h*w, P prefix tokens, D embed dim, R windows per image,
s window side, M heads, d rotary width (sine and cosine).
"""

from collections.abc import Callable
from functools import partial

import torch
from timm.layers import Attention, AttentionRope, DiffAttention
from timm.models import eva, vision_transformer
from torch import Tensor, nn

from vit_adapter.backbone.vit_parts import add_branch
from vit_adapter.layers import GridSize, window_merge, window_partition

Attend = Callable[[Tensor], Tensor]


def windowed_attention(
    attention: nn.Module,
    tokens: Tensor,
    *,
    grid: GridSize,
    window_size: int,
    num_prefix: int,
    rotary: Tensor | None = None,
) -> Tensor:
    """Let every patch attend to the patches of its window and to the prefix tokens.

    Each window gets a copy of the prefix tokens, and what they read is averaged over the windows.
    A window at the border is padded to its full size, but nothing attends to the padding: the
    result is that of a smaller window. A window at least as large as the grid is global attention.

    Args:
        attention: timm's module: (batch, tokens, D) -> the same, with ``attn_mask`` and, where
            ``rotary`` is given, ``rope``.
        tokens: (B, P + N, D).
        grid: (h, w).
        window_size: s, side of a window in patches.
        num_prefix: P.
        rotary: sines and cosines of each patch's position in the whole grid, (N, d) or (M, N, d).

    Returns:
        (B, P + N, D).
    """
    prefix, patches = tokens[:, :num_prefix], tokens[:, num_prefix:]
    windows = window_partition(patches, grid, window_size)  # (B*R, s*s, D)
    batch = tokens.shape[0]
    per_image = windows.shape[0] // batch
    copies = prefix.repeat_interleave(per_image, dim=0)  # (B*R, P, D)
    options = {}
    if rotary is not None:
        options["rope"] = _partition_rotary(rotary, grid, window_size).repeat(batch, 1, 1, 1)
    if grid[0] % window_size or grid[1] % window_size:
        mask = _real_tokens(grid, window_size, num_prefix, tokens.device)
        options["attn_mask"] = mask.repeat(batch, 1, 1, 1)
    attended = attention(torch.cat([copies, windows], dim=1), **options)
    prefix, windows = attended[:, :num_prefix], attended[:, num_prefix:]
    prefix = prefix.unflatten(0, (batch, per_image)).mean(dim=1)
    return torch.cat([prefix, window_merge(windows, grid, window_size)], dim=1)


def _partition_rotary(rotary: Tensor, grid: GridSize, window_size: int) -> Tensor:
    """(N, d) or (M, N, d) -> (R, 1 or M, s*s, d)."""
    heads = rotary.reshape(-1, *rotary.shape[-2:])  # (1 or M, N, d)
    windows = window_partition(heads, grid, window_size)
    return windows.unflatten(0, (heads.shape[0], -1)).transpose(0, 1)


def _real_tokens(grid: GridSize, window_size: int, num_prefix: int, device: torch.device) -> Tensor:
    """Which tokens of a window are not padding, as an attention mask (R, 1, 1, P + s*s)."""
    everywhere = torch.ones(1, grid[0] * grid[1], 1, device=device)
    windows = window_partition(everywhere, grid, window_size)[..., 0]  # (R, s*s)
    prefix = windows.new_ones(windows.shape[0], num_prefix)
    return torch.cat([prefix, windows], dim=1)[:, None, None].bool()


def _run_block(block: nn.Module, tokens: Tensor, attend: Attend) -> Tensor:
    """timm's ``vision_transformer.Block``."""
    scales = (getattr(scale, "gamma", None) for scale in (block.ls1, block.ls2))
    return _run_branches(block, tokens, attend, *scales)


def _run_post_norm_block(block: nn.Module, tokens: Tensor, attend: Attend) -> Tensor:
    """timm's ``vision_transformer.ResPostBlock`` and ``eva.EvaBlockPostNorm``."""
    tokens = tokens + block.drop_path1(block.norm1(attend(tokens)))
    return tokens + block.drop_path2(block.norm2(block.mlp(tokens)))


def run_scaled_block(block: nn.Module, tokens: Tensor, attend: Attend) -> Tensor:
    """timm's ``eva.EvaBlock`` and ``beit.Block`` with ``attend`` in place of their attention."""
    return _run_branches(block, tokens, attend, block.gamma_1, block.gamma_2)


def _run_branches(
    block: nn.Module,
    tokens: Tensor,
    attend: Attend,
    first_scale: Tensor | None,
    second_scale: Tensor | None,
) -> Tensor:
    attended = attend(block.norm1(tokens))
    tokens = add_branch(tokens, attended, first_scale, block.drop_path1)
    hidden = block.mlp(block.norm2(tokens))
    return add_branch(tokens, hidden, second_scale, block.drop_path2)


_RUN_BLOCK: dict[type[nn.Module], Callable[[nn.Module, Tensor, Attend], Tensor]] = {
    vision_transformer.Block: _run_block,
    vision_transformer.ResPostBlock: _run_post_norm_block,
    eva.EvaBlock: run_scaled_block,
    eva.EvaBlockPostNorm: _run_post_norm_block,
}
_SCALED_BLOCKS = (vision_transformer.Block, eva.EvaBlock)
_ATTENTIONS = (Attention, AttentionRope, DiffAttention, eva.EvaAttention)


def run_windowed_block(
    block: nn.Module,
    tokens: Tensor,
    *,
    grid: GridSize,
    window_size: int,
    num_prefix: int,
    rotary: Tensor | None,
) -> Tensor:
    """Run one of timm's blocks with :func:`windowed_attention`; it has the same arguments."""

    def attend(normed: Tensor) -> Tensor:
        return windowed_attention(
            block.attn,
            normed,
            grid=grid,
            window_size=window_size,
            num_prefix=num_prefix,
            rotary=rotary,
        )

    return _RUN_BLOCK[type(block)](block, tokens, attend)


def run_whole_block(block: nn.Module, tokens: Tensor, rotary: Tensor | None) -> Tensor:
    """Run one of timm's blocks with global attention; in inference with fewer operations."""
    options = {} if rotary is None else {"rope": rotary}
    # Exact types: FSDP, for one, makes subclasses, which must be called.
    called = block._forward_hooks or block._forward_pre_hooks or type(block) not in _SCALED_BLOCKS
    if torch.is_grad_enabled() or called:
        return block(tokens, **options)
    return _RUN_BLOCK[type(block)](block, tokens, partial(block.attn, **options))


def why_no_windows(block: nn.Module) -> str:
    """Why a block cannot attend in windows; "" if it can."""
    if type(block) not in _RUN_BLOCK:
        return f"its blocks are timm's {type(block).__name__}, which run several branches at once"
    if not isinstance(block.attn, _ATTENTIONS):
        return f"its attention is timm's {type(block.attn).__name__}"
    return ""
