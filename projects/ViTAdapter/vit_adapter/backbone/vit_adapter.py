"""ViT-Adapter (arXiv 2205.08534), which turns a plain ViT into a feature-pyramid backbone.

Shapes: B batch, H/W image sides in pixels, D embed dim, N ViT tokens (patches), S prior tokens
(strides 8, 16 and 32, in this order).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from vit_adapter.backbone.frozen import FrozenTrunk, store_in_bfloat16
from vit_adapter.backbone.init import init_adapter_weights
from vit_adapter.backbone.interaction import NUM_PRIOR_LEVELS, InteractionBlock, InteractionSettings
from vit_adapter.backbone.modes import AdapterModeName, find_mode
from vit_adapter.backbone.pyramid_backbone import STRIDES, PyramidBackbone
from vit_adapter.backbone.spatial_prior import SpatialPriorModule
from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.layers import (
    PatchUpsampling,
    PyramidGeometry,
    build_norm,
    normalise_map,
    resize_map,
    split_levels,
    tokens_to_map,
)
from vit_adapter.layers.pyramid import PYRAMID_STRIDE

VitFeatureFusion = Literal["last", "per_interaction", "none"]
FrozenDtype = Literal["float32", "bfloat16"]


class ViTAdapter(PyramidBackbone):
    """A plain ViT with a spatial prior module, injectors and extractors around its blocks.

    The ViT itself is unchanged: it is the submodule ``vit`` and accepts any pre-trained weights.
    The other parameters have the original's names. Images may have any size; see :meth:`forward`.

    Modes:

    * "full" is the paper's adapter.
    * "frozen" has no injectors and does not train the ViT. The ViT runs once, in 16 bits where that
      is fast, keeps no activations and stays in evaluation mode; its tokens after the blocks of
      each interaction feed the extractors. Meant for large pre-trained ViTs. The segmentor
      published with DINOv3 (arXiv 2508.10104) is this mode with ``norm_taps`` and ``norm_eps``. If
      the ViT has LoRA factors, these are trained, and the blocks keep their activations.
    * "light" has neither injectors nor deformable attention and trains everything; see
      :mod:`vit_adapter.backbone.light`.

    Parts that several modes share have the same names, so weights carry over between modes.
    Arguments for parts that a mode does not have are ignored, so that one override changes the mode
    of any config.

    Args:
        vit: the ViT, patch size at most 32. A patch size other than 16 has a grid of its own beside
            the pyramid's, and the ViT does not see what remains at the bottom and right.
        mode: "full", "frozen" or "light".
        interaction_indexes: (first, last) block of each interaction, both inclusive; together they
            cover all blocks in order. The extractors read the tokens after each last block.
        conv_inplane: channels of the spatial prior's stem.
        num_points: sampling points per head and level of the deformable attention.
        deform_num_heads: heads of the deformable attention.
        deform_ratio: width of the values of the deformable attention, relative to D.
        with_cffn: whether extractors have a convolutional feed-forward network.
        cffn_ratio: its hidden width relative to D.
        use_extra_extractor: whether the last interaction has two further extractors. Mode "light"
            has none, since reading the same points again adds nothing.
        vit_feature_fusion: ViT tokens added to the outputs. "last": the final ones to all four
            (the original's detectors); "per_interaction": those after interaction i to output i
            (its segmentors; needs exactly four interactions); "none".
        norm_taps: pass the ViT's tokens through its final norm before extractors and outputs read
            them, which DINOv3's segmentor does. The ViT must have kept the norm. Ignored with
            injectors.
        norm_eps: epsilon of the adapter's LayerNorms; None for that of the ViT.
        frozen_dtype: how the weights of linear layers and convolutions of a frozen ViT are stored.
            "bfloat16" halves the memory and, where the frozen mode computes in bfloat16, gives
            identical results; elsewhere it is refused. Checkpoints then hold these weights rounded,
            and load into either.
        init_values: initial scale of the injectors; 0 leaves the ViT undisturbed at the start.
        drop_path_rate: stochastic depth rate of every extractor's feed-forward network, in [0, 1).
        norm: norm of the spatial prior and of the outputs, see
            :func:`vit_adapter.layers.build_norm`.
        use_checkpoint: recompute injectors and extractors in the backward pass (the ViT has its
            own switch).
        out_features: names of the outputs. Parts that no output needs are frozen and do not run;
            they stay in the model so that checkpoints fit. Without injectors, levels of the priors
            can be among them.

    Attributes:
        tap_source: replaces :meth:`read_taps` in training if it is set, for example by stored
            results; only in mode "frozen". None by default.

    Raises:
        ValueError: the arguments do not fit each other or the ViT.
    """

    def __init__(
        self,
        vit: ViTTrunk,
        *,
        interaction_indexes: Sequence[Sequence[int]],
        mode: AdapterModeName = "full",
        conv_inplane: int = 64,
        num_points: int = 4,
        deform_num_heads: int = 6,
        deform_ratio: float = 1.0,
        with_cffn: bool = True,
        cffn_ratio: float = 0.25,
        use_extra_extractor: bool = True,
        vit_feature_fusion: VitFeatureFusion = "last",
        norm_taps: bool = False,
        norm_eps: float | None = None,
        frozen_dtype: FrozenDtype = "float32",
        init_values: float = 0.0,
        drop_path_rate: float = 0.0,
        norm: str = "SyncBN",
        use_checkpoint: bool = False,
        out_features: Sequence[str] = tuple(STRIDES),
    ) -> None:
        super().__init__(vit, out_features)
        groups = _check_interactions(interaction_indexes, vit.depth)
        _check_fusion(vit_feature_fusion, len(groups))
        parts = find_mode(mode)
        self.norm_taps = norm_taps and not parts.has_injectors
        _check_vit(vit, self.norm_taps)
        _check_frozen_dtype(frozen_dtype)
        self.mode = mode
        self.vit_feature_fusion = vit_feature_fusion
        self.interaction_indexes = groups

        dim = vit.embed_dim
        settings = InteractionSettings(
            embed_dim=dim,
            norm_layer=vit.norm_layer if norm_eps is None else partial(nn.LayerNorm, eps=norm_eps),
            num_heads=deform_num_heads,
            num_points=num_points,
            deform_ratio=deform_ratio,
            init_values=init_values,
            with_cffn=with_cffn,
            cffn_ratio=cffn_ratio,
            drop_path=drop_path_rate,
        )
        self.level_embed = nn.Parameter(torch.empty(NUM_PRIOR_LEVELS, dim))
        self.spm = SpatialPriorModule(
            inplanes=conv_inplane, embed_dim=dim, norm=norm, in_channels=vit.in_channels
        )
        num_extra = parts.num_extra_extractors if use_extra_extractor else 0
        self.interactions = nn.ModuleList(
            InteractionBlock(
                settings,
                with_injector=parts.has_injectors,
                make_extractor=parts.make_extractor,
                num_extra_extractors=num_extra if group == groups[-1] else 0,
                use_checkpoint=use_checkpoint,
            )
            for group in groups
        )
        self.up = PatchUpsampling(dim, dim, 2)
        self.norm1, self.norm2, self.norm3, self.norm4 = (build_norm(norm, dim) for _ in STRIDES)
        self.reset_parameters()
        self._has_injectors = parts.has_injectors
        self._prior_strides = self._find_prior_strides()
        self._freeze_unused()
        if self.norm_taps and not vit.lora_rank:
            vit.final_norm.requires_grad_()
        self._vit_is_frozen = parts.freezes_vit
        self._in_bfloat16 = parts.freezes_vit and frozen_dtype == "bfloat16"
        if self._vit_is_frozen:
            self.vit.eval()
            if not self.vit.lora_rank:
                self.vit.requires_grad_(False)
        if self._in_bfloat16:
            store_in_bfloat16(self.vit)
        self.tap_source: Callable[[Tensor], list[Tensor]] | None = None

    def train(self, mode: bool = True) -> "ViTAdapter":
        """Set the training mode of all parts; a frozen ViT stays in evaluation mode."""
        super().train(mode)
        if self._vit_is_frozen:
            self.vit.eval()
        return self

    def reset_parameters(self) -> None:
        """Initialise the adapter as the original does; the ViT is not touched."""
        for part in (self.spm, self.interactions, self.up):
            part.apply(init_adapter_weights)
        nn.init.normal_(self.level_embed)

    def no_weight_decay(self) -> set[str]:
        """Names of the adapter's embeddings; see :meth:`ViTTrunk.no_weight_decay`."""
        return {"level_embed"}

    def sharding_units(self) -> Sequence[nn.Module]:
        """See :meth:`ViTTrunk.sharding_units`; the ViT names its own parts."""
        return self.interactions

    def compute(self, images: Tensor) -> dict[str, Tensor]:
        """See :meth:`PyramidBackbone.compute`."""
        strides = [stride for stride in self._prior_strides if stride > STRIDES["res2"]]
        height, width = images.shape[-2:]
        geometry = PyramidGeometry.from_image_size(
            height, width, prior_strides=strides, patch_size=self.vit.patch_size
        )
        stride_4, *priors = self.spm(images, self._prior_strides)
        levels = zip(priors, self.level_embed, strict=True)
        prior_tokens = torch.cat([tokens + e for tokens, e in levels if tokens is not None], 1)
        vit_taps, prior_tokens = self._interact(images, prior_tokens, geometry)
        return self._assemble(stride_4, prior_tokens, vit_taps, geometry)

    def _interact(
        self, images: Tensor, prior_tokens: Tensor, geometry: PyramidGeometry
    ) -> tuple[list[Tensor], Tensor]:
        """Return the patch tokens (B, N, D) after each interaction, and the final prior tokens."""
        height, width = (side * self.vit.patch_size for side in geometry.vit_shape)
        images = images[..., :height, :width]  # whole patches only
        if not self._has_injectors:
            stored = self.training and self.tap_source is not None
            taps = self.tap_source(images) if stored else self.read_taps(images)
            for interact, tap in zip(self.interactions, taps, strict=True):
                _, prior_tokens = interact(tap, prior_tokens, geometry, run_blocks=nn.Identity())
            return taps, prior_tokens
        vit_tokens, grid = self.vit.embed(images)
        num_prefix = self.vit.num_prefix_tokens
        taps = []
        groups = self.interaction_indexes
        for interact, (first, last) in zip(self.interactions, groups, strict=True):
            run_blocks = partial(self.vit.forward_blocks, grid=grid, start=first, stop=last + 1)
            vit_tokens, prior_tokens = interact(
                vit_tokens, prior_tokens, geometry, run_blocks, num_prefix
            )
            taps.append(vit_tokens[:, num_prefix:])
        return taps, prior_tokens

    def read_taps(self, images: Tensor) -> list[Tensor]:
        """Run the ViT alone; return the patch tokens (B, N, D) that each interaction reads.

        Args:
            images: (B, C, H, W), normalised; H and W are multiples of the patch size.
        """
        trunk: ViTTrunk | FrozenTrunk = self.vit
        if self._vit_is_frozen:
            trunk = FrozenTrunk(self.vit, in_bfloat16=self._in_bfloat16)
        tokens, grid = trunk.embed(images)
        taps = []
        for first, last in self.interaction_indexes:
            tokens = trunk.forward_blocks(tokens, grid, first, last + 1)
            patches = tokens[:, self.vit.num_prefix_tokens :]
            taps.append(trunk.normalise(patches) if self.norm_taps else patches)
        return taps

    def _assemble(
        self,
        stride_4: Tensor | None,
        prior_tokens: Tensor,
        vit_taps: list[Tensor],
        geometry: PyramidGeometry,
    ) -> dict[str, Tensor]:
        """Make the output maps (B, D, H / stride, W / stride) of the padded image."""
        levels = split_levels(prior_tokens, geometry.prior_shapes)
        maps = list(map(tokens_to_map, levels, geometry.prior_shapes))
        if stride_4 is not None:
            maps.insert(0, _add_into(stride_4, self.up(maps[0])))
        by_stride = dict(zip(self._prior_strides, maps, strict=True))
        outputs = {}
        for i, (name, norm) in enumerate(zip(STRIDES, self._norms(), strict=True)):
            if not self.wants(name):
                continue
            features = by_stride[STRIDES[name]]
            if self.vit_feature_fusion != "none":
                tap = vit_taps[i] if self.vit_feature_fusion == "per_interaction" else vit_taps[-1]
                tap_map = tokens_to_map(tap, geometry.vit_shape)
                resized = resize_map(tap_map, geometry.map_shape(STRIDES[name]))
                features = _add_into(features, resized) if i == 0 else features + resized
            outputs[name] = normalise_map(norm, features, in_place=i == 0)
        return outputs

    def _norms(self) -> tuple[nn.Module, ...]:
        """The norms of the outputs, finest first."""
        return self.norm1, self.norm2, self.norm3, self.norm4

    def _find_prior_strides(self) -> list[int]:
        """Strides of the priors in use; through injectors, strides 8 to 32 change every output."""
        used = {STRIDES[name] for name in self._out_features}
        if self.wants("res2"):
            used.add(STRIDES["res3"])  # upsampled and added to res2
        if self._has_injectors:
            used |= set(STRIDES.values()) - {STRIDES["res2"]}
        return sorted(used)

    def _freeze_unused(self) -> None:
        """Freeze what no output needs: distributed training waits for every gradient."""
        for name, norm in zip(STRIDES, self._norms(), strict=True):
            norm.requires_grad_(self.wants(name))
        self.up.requires_grad_(self.wants("res2"))
        self.spm.freeze_unused(self._prior_strides)


def _add_into(total: Tensor, term: Tensor) -> Tensor:
    """Add in place to a map that nothing else needs: new memory is most costly at stride 4."""
    widens = torch.promote_types(total.dtype, term.dtype) != total.dtype  # under autocast
    return total + term if widens else total.add_(term)


def _check_interactions(indexes: Sequence[Sequence[int]], depth: int) -> list[tuple[int, int]]:
    """Return the groups as pairs, after checking that they cover all blocks in order."""
    groups = [tuple(group) for group in indexes]
    expected_first = 0
    for group in groups:
        if len(group) != 2 or group[0] != expected_first or group[1] < group[0]:
            break
        expected_first = group[1] + 1
    else:
        if groups and expected_first == depth:
            return [(first, last) for first, last in groups]
    raise ValueError(
        f"interaction_indexes must be (first, last) pairs, both ends inclusive, that cover the "
        f"ViT's blocks 0 to {depth - 1} in order without gaps, got {groups}"
    )


def _check_vit(vit: ViTTrunk, norm_taps: bool) -> None:
    if vit.patch_size > PYRAMID_STRIDE:
        raise ValueError(
            f"the patches of the ViT must not be larger than the coarsest stride, "
            f"{PYRAMID_STRIDE} pixels, got patch_size {vit.patch_size}"
        )
    if norm_taps and vit.final_norm is None:
        raise ValueError(
            f"norm_taps=True needs the final norm of the ViT, but this {type(vit).__name__} has "
            "none; build it with TimmViT(final_norm=True)"
        )


def _check_frozen_dtype(dtype: str) -> None:
    if dtype not in get_args(FrozenDtype):
        raise ValueError(f"frozen_dtype must be 'float32' or 'bfloat16', got {dtype!r}")


def _check_fusion(fusion: str, num_interactions: int) -> None:
    if fusion not in ("last", "per_interaction", "none"):
        raise ValueError(
            f"vit_feature_fusion must be 'last', 'per_interaction' or 'none', got {fusion!r}"
        )
    if fusion == "per_interaction" and num_interactions != len(STRIDES):
        raise ValueError(
            f"vit_feature_fusion='per_interaction' needs exactly {len(STRIDES)} interactions, "
            f"one for each output, got {num_interactions}"
        )
