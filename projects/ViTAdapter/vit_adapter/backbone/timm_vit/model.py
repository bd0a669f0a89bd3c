"""Any plain ViT of timm as a trunk: DeiT, DINOv2, DINOv3, EVA-02, BEiT-3, CLIP, SigLIP, SAM ...

Shapes: B batch, H/W image sides in pixels, h/w grid of patches, N = h*w, P prefix tokens,
D embed dim.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vit_adapter.backbone.lora import add_lora
from vit_adapter.backbone.timm_vit.create import create_plain_vit
from vit_adapter.backbone.timm_vit.families import resize_positions
from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.backbone.vit_parts import check_window_sizes, patch_grid
from vit_adapter.layers import GridSize

_STEM = (
    "cls_token", "dist_token", "reg_token", "pos_embed", "patch_embed", "norm_pre", "rope",
)  # fmt: skip
"""What timm's plain ViTs have before their blocks."""


class TimmViT(ViTTrunk):
    """One of timm's own modules, complete except for classifier, pooling and final norm.

    LayerScale, class token and registers, rotary and relative positions, SwiGLU, sub-LayerNorms
    and the norm before the blocks (CLIP) work as in timm; absolute positions are resized to
    each image, bicubically. Images may have any sides that are multiples of the patch size.
    Training-time jitter of rotary positions is switched off. DINOv3's rotary periods are part of
    the weights, see :class:`vit_adapter.backbone.timm_vit.rope.StoredRope`.

    Blocks can have windows, within which the patches attend to each other. Every window sees the
    prefix tokens, whose new values are the mean over the windows. Padding at the border is not
    attended to. Rotary positions stay those of the whole grid. This does not work for BEiT, because
    of its table of relative positions, or for SAM, which has windows of its own.

    Args:
        name: timm's name of the model; a tag such as ``.lvd142m`` selects the pre-training whose
            grid is used. Weights are loaded later (``train.vit_checkpoint``).
        patch_size: side of a patch in pixels. If the pre-training used another size, the kernel is
            resized when its weights are loaded.
        in_channels: channels of the images.
        img_size: side in pixels, or (height, width), of the images whose grid the learned positions
            have; None keeps the grid of the pre-training, so that they are loaded unchanged.
        drop_path_rate: stochastic depth rate of the last block, in [0, 1); rises linearly from 0
            in the first.
        window_sizes: one side per block in patches, 0 for global attention; () leaves the model
            as it is.
        depth: number of blocks; None for the model's own.
        embed_dim: width D; None for the model's own.
        use_checkpoint: recompute each block in the backward pass instead of storing its
            activations.
        final_norm: keep the LayerNorm after the last block. The trunk does not run it; an adapter
            does, see ``norm_taps`` of :class:`ViTAdapter`.
        antialias_positions: resize absolute positions with antialiasing, by timm's rule. The
            published DINOv2 adapters do it without.
        model_args: further arguments of timm's constructor, e.g. ``{"init_values": 1e-5}``.
        lora_rank: rank of the LoRA factors in the attention of every block; 0 for none. With
            factors, only these are trained.
        lora_alpha: the factors are scaled by ``lora_alpha / lora_rank``; None for scale 1.

    Attributes:
        model: timm's module.

    Raises:
        ValueError: timm does not know the name (the nearest ones are suggested) or it is not a
            plain ViT, the architecture cannot have windows or LoRA, or the arguments do not fit
            together.
    """

    def __init__(
        self,
        *,
        name: str,
        patch_size: int = 16,
        in_channels: int = 3,
        img_size: int | Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        window_sizes: Sequence[int] = (),
        depth: int | None = None,
        embed_dim: int | None = None,
        use_checkpoint: bool = False,
        final_norm: bool = False,
        antialias_positions: bool = True,
        model_args: Mapping[str, Any] | None = None,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {drop_path_rate}")
        self.model, self._family = create_plain_vit(
            name,
            patch_size=patch_size,
            in_channels=in_channels,
            img_size=img_size,
            sizes={"depth": depth, "embed_dim": embed_dim},
            drop_path_rate=drop_path_rate,
            final_norm=final_norm,
            model_args=model_args or {},
        )
        self.name = name
        self.embed_dim = self.model.embed_dim
        self.depth = len(self.model.blocks)
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.num_prefix_tokens = getattr(self.model, "num_prefix_tokens", 0)
        self.norm_layer = partial(nn.LayerNorm, eps=_norm_eps(self.model.blocks[0]))
        self.use_checkpoint = use_checkpoint
        self._has_final_norm = final_norm
        if final_norm:
            self.model.norm.requires_grad_(False)  # an adapter that trains it turns it on
        self._antialias = antialias_positions
        self.window_sizes = check_window_sizes(window_sizes, self.depth)
        reason = self._family.why_no_windows(self.model) if any(self.window_sizes) else ""
        if reason:
            raise ValueError(
                f"the blocks of {name!r} cannot have windows: {reason}. Leave window_sizes empty"
            )
        self.lora_rank = lora_rank
        if lora_rank:
            add_lora(self, self.model.blocks, rank=lora_rank, alpha=lora_alpha)

    def embed(self, images: Tensor) -> tuple[Tensor, GridSize]:
        """See :meth:`ViTTrunk.embed`."""
        grid = patch_grid(images, self.patch_size, self.in_channels)
        tokens = self._family.embed(self.model, images, grid, resize=self._resize)
        return tokens, grid

    def _resize(
        self, positions: Tensor, source: GridSize, grid: GridSize, num_prefix: int
    ) -> Tensor:
        """See :func:`resize_positions`; the result is kept in evaluation."""
        resize = partial(
            resize_positions, positions, source, grid, num_prefix, antialias=self._antialias
        )
        return self.derived.get([positions], (source, grid), resize)

    def forward_blocks(self, tokens: Tensor, grid: GridSize, start: int, stop: int) -> Tensor:
        """See :meth:`ViTTrunk.forward_blocks`."""
        if start >= stop:
            return tokens
        positions = self._family.positions(self.model, grid)
        recompute = self.use_checkpoint and torch.is_grad_enabled()
        for index in range(start, stop):
            window_size = self.window_sizes[index]
            run = partial(self._family.run_block, self.model, index)
            if recompute:
                tokens = checkpoint(run, tokens, positions, grid, window_size, use_reentrant=False)
            else:
                tokens = run(tokens, positions, grid, window_size)
        return tokens

    def blocks_from(self, start: int) -> Sequence[nn.Module]:
        """See :meth:`ViTTrunk.blocks_from`."""
        return self.model.blocks[start:]

    def sharding_units(self) -> Sequence[nn.Module]:
        """See :meth:`ViTTrunk.sharding_units`; blocks in windows are run part by part."""
        units = []
        for block, window_size in zip(self.model.blocks, self.window_sizes, strict=True):
            units += self._family.sharding_units(block, windowed=bool(window_size))
        return units

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """See :meth:`ViTTrunk.group_matcher`; timm's own leaves out learned rotary positions."""
        return {
            "stem": rf"model\.(?:{'|'.join(_STEM)})\b",
            "blocks": r"model\.blocks\.(\d+)\.",
            "norm": r"model\.norm\.",
        }

    @property
    def final_norm(self) -> nn.Module | None:
        """See :attr:`ViTTrunk.final_norm`."""
        return self.model.norm if self._has_final_norm else None

    def no_weight_decay(self) -> set[str]:
        """See :meth:`ViTTrunk.no_weight_decay`; timm's models name them."""
        return {f"model.{name}" for name in self.model.no_weight_decay()}


def _norm_eps(block: nn.Module) -> float:
    """Epsilon of the first norm in a block."""
    return next(module.eps for module in block.modules() if hasattr(module, "eps"))
