"""How timm's classes of plain ViTs differ, as far as a trunk is concerned.

Shapes: B batch, H/W image sides in pixels, h/w grid of patches, N = h*w, P prefix tokens,
D embed dim.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn

from vit_adapter.backbone.timm_vit.relative import (
    RelativePositions,
    biased_attention,
    relative_positions,
)
from vit_adapter.backbone.timm_vit.windows import (
    run_scaled_block,
    run_whole_block,
    run_windowed_block,
    why_no_windows,
)
from vit_adapter.layers import GridSize, resize_position_embedding
from vit_adapter.layers.kept import Kept, holds_numbers, keep_if_captured
from vit_adapter.ops.exporting import is_exporting

Resize = Callable[[Tensor, GridSize, GridSize, int], Tensor]
"""Resizes positions, given the arguments of :func:`resize_positions` up to ``num_prefix``."""

_PREFIX_NAMES = ("cls_token", "dist_token", "reg_token")  # in the order of timm's sequences
_MAX_CACHED_GRIDS = 32


class Family(ABC):
    """How one of timm's classes embeds images and runs its blocks.

    Attributes:
        any_size: arguments with which timm builds the class for images of any size.
    """

    any_size: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def why_no_windows(self, model: nn.Module) -> str:
        """Why the blocks cannot have windows; "" if they can."""

    @abstractmethod
    def embed(self, model: nn.Module, images: Tensor, grid: GridSize, *, resize: Resize) -> Tensor:
        """Make the tokens (B, P + N, D) of the first block from (B, C, H, W).

        ``resize`` resizes learned positions, see :func:`resize_positions`.
        """

    def positions(self, model: nn.Module, grid: GridSize) -> Any:
        """Prepare the positions of a grid that all blocks are given; None if there are none."""
        return None

    @abstractmethod
    def run_block(
        self,
        model: nn.Module,
        index: int,
        tokens: Tensor,
        positions: Any,
        grid: GridSize,
        window_size: int,
    ) -> Tensor:
        """Run one block on tokens (B, P + N, D), in windows unless ``window_size`` is 0."""

    def sharding_units(self, block: nn.Module, *, windowed: bool) -> list[nn.Module]:
        """The parts of a block that are called; see :meth:`ViTTrunk.sharding_units`."""
        return [block.attn, block.mlp] if windowed else [block]


class StandardFamily(Family):
    """``VisionTransformer``: learned positions that are added to the tokens, or none."""

    any_size = {"dynamic_img_size": True}

    def why_no_windows(self, model: nn.Module) -> str:
        """See :meth:`Family.why_no_windows`."""
        return why_no_windows(model.blocks[0])

    def embed(self, model: nn.Module, images: Tensor, grid: GridSize, *, resize: Resize) -> Tensor:
        """See :meth:`Family.embed`."""
        return model.norm_pre(_embed_with_prefix(model, images, grid, resize))

    def run_block(
        self,
        model: nn.Module,
        index: int,
        tokens: Tensor,
        positions: Tensor | None,
        grid: GridSize,
        window_size: int,
    ) -> Tensor:
        """See :meth:`Family.run_block`; ``positions`` are rotary, and only a subclass has them."""
        block = model.blocks[index]
        rotary = positions
        if positions is not None and model.rope_mixed:  # each block has its own
            rotary = positions[index]
        if not window_size:
            return run_whole_block(block, tokens, rotary)
        return run_windowed_block(
            block,
            tokens,
            grid=grid,
            window_size=window_size,
            num_prefix=model.num_prefix_tokens,
            rotary=rotary,
        )


class EvaFamily(StandardFamily):
    """``Eva``: rotary positions, with or without learned ones (EVA-02, DINOv3, RoPE-ViT ...)."""

    def __init__(self) -> None:
        self._fixed: dict[tuple, tuple[Tensor, Kept[Tensor]]] = {}

    def __reduce__(self) -> tuple[type["EvaFamily"], tuple[()]]:
        """Let copies and pickles start without positions."""
        return type(self), ()

    def positions(self, model: nn.Module, grid: GridSize) -> Tensor | None:
        """Sines and cosines: (N, d), or (blocks, heads, N, d) where each block has its own."""
        rope = model.rope
        if rope is None:
            return None
        learned = next(rope.parameters(), None) is not None
        if learned or torch.compiler.is_compiling():
            return rope.get_embed(shape=grid)
        source = next(rope.buffers())
        if source.is_inference():  # writes to it cannot be noticed
            return rope.get_embed(shape=grid)
        # The buffer is kept with the result, so that no other gets its id. Writes to it change the
        # version.
        key = (grid, id(source), source._version)
        found = self._fixed.get(key)  # at once: another thread may clear them
        if found is not None:
            return keep_if_captured(found[1].read())
        # A tensor made in inference mode could not be used in a later training step.
        with torch.inference_mode(False), torch.no_grad():
            rotary = rope.get_embed(shape=grid)
        if holds_numbers(rotary):
            if len(self._fixed) >= _MAX_CACHED_GRIDS:
                self._fixed.clear()
            self._fixed[key] = source, Kept(rotary)
        return rotary


class BeitFamily(Family):
    """``Beit``: a table of relative positions for each block."""

    def why_no_windows(self, model: nn.Module) -> str:
        """See :meth:`Family.why_no_windows`."""
        return (
            "its relative position bias is a table for the whole grid. "
            "vit_adapter.BEiT reads the same weights and supports windows"
        )

    def embed(self, model: nn.Module, images: Tensor, grid: GridSize, *, resize: Resize) -> Tensor:
        """See :meth:`Family.embed`."""
        return _embed_with_prefix(model, images, grid, resize)

    def positions(self, model: nn.Module, grid: GridSize) -> RelativePositions:
        """See :meth:`Family.positions`."""
        attention = model.blocks[0].attn
        table = attention.relative_position_bias_table
        return relative_positions(tuple(attention.window_size), grid, table)

    def run_block(
        self,
        model: nn.Module,
        index: int,
        tokens: Tensor,
        positions: RelativePositions,
        grid: GridSize,
        window_size: int,
    ) -> Tensor:
        """See :meth:`Family.run_block`."""
        block = model.blocks[index]
        table = block.attn.relative_position_bias_table

        def bias(dtype: torch.dtype) -> Tensor:
            make = partial(positions.bias, table, dtype)
            return block.attn.biases.derived.get([table], (grid, dtype), make)

        return run_scaled_block(
            block, tokens, lambda normed: biased_attention(block.attn, normed, bias)
        )

    def sharding_units(self, block: nn.Module, *, windowed: bool) -> list[nn.Module]:
        """See :meth:`Family.sharding_units`; the attention itself is not called."""
        return [block.mlp]


class SamFamily(Family):
    """``VisionTransformerSAM``: maps of tokens, with windows and relative positions of its own."""

    def why_no_windows(self, model: nn.Module) -> str:
        """See :meth:`Family.why_no_windows`."""
        sizes = [block.window_size for block in model.blocks]
        return f"its blocks have windows of their own, {sizes}, which its weights were trained with"

    def embed(self, model: nn.Module, images: Tensor, grid: GridSize, *, resize: Resize) -> Tensor:
        """See :meth:`Family.embed`."""
        patches = model.patch_embed(images)  # (B, h, w, D)
        if model.pos_embed is not None:
            source = tuple(model.pos_embed.shape[1:3])
            patches = patches + resize(model.pos_embed, source, grid, 0).unflatten(1, grid)
        return model.norm_pre(model.pos_drop(patches)).flatten(1, 2)

    def run_block(
        self,
        model: nn.Module,
        index: int,
        tokens: Tensor,
        positions: Any,
        grid: GridSize,
        window_size: int,
    ) -> Tensor:
        """See :meth:`Family.run_block`."""
        return model.blocks[index](tokens.unflatten(1, grid)).flatten(1, 2)


def _embed_with_prefix(model: nn.Module, images: Tensor, grid: GridSize, resize: Resize) -> Tensor:
    """Embed patches, put prefix tokens in front and add positions."""
    patches = model.patch_embed(images)
    if patches.ndim == 4:
        patches = patches.flatten(1, 2)
    tokens = [getattr(model, name, None) for name in _PREFIX_NAMES]
    prefix = [token.expand(images.shape[0], -1, -1) for token in tokens if token is not None]
    if model.pos_embed is None:
        return model.pos_drop(torch.cat([*prefix, patches], dim=1))
    only_patches = getattr(model, "no_embed_class", False)
    num_prefix = 0 if only_patches else model.num_prefix_tokens
    source = tuple(model.patch_embed.grid_size)
    positions = resize(model.pos_embed, source, grid, num_prefix)
    if only_patches:
        return model.pos_drop(torch.cat([*prefix, patches + positions], dim=1))
    return model.pos_drop(torch.cat([*prefix, patches], dim=1) + positions)


def resize_positions(
    positions: Tensor, source: GridSize, grid: GridSize, num_prefix: int, *, antialias: bool
) -> Tensor:
    """Resize learned positions bicubically from one grid to another, all except the prefix.

    Args:
        positions: (1, num_prefix + N, D); SAM's are (1, h, w, D) and have no prefix.
        source: the grid of ``positions``.
        grid: the wanted grid.
        num_prefix: number of leading positions that are kept.
        antialias: whether a smaller grid is made with antialiasing.

    Returns:
        (1, num_prefix + N', D).
    """
    positions = positions.flatten(1, -2)
    if antialias and not is_exporting():  # timm's own numbers; it compares sizes with the grid
        return resample_abs_pos_embed(
            positions,
            new_size=list(grid),
            old_size=list(source),
            num_prefix_tokens=num_prefix,
        )
    prefix, patches = positions[:, :num_prefix], positions[:, num_prefix:]
    patches = resize_position_embedding(patches, source, grid, antialias=antialias)
    return torch.cat([prefix, patches], dim=1)


_FAMILIES: dict[type[nn.Module], Callable[[], Family]] = {
    VisionTransformer: StandardFamily,
    Eva: EvaFamily,
    Beit: BeitFamily,
    VisionTransformerSAM: SamFamily,
}


def find_family(model: nn.Module) -> Family | None:
    """The family of one of timm's models; None if it is not a plain ViT."""
    return next((make() for cls, make in _FAMILIES.items() if isinstance(model, cls)), None)
