"""Build one of timm's plain ViTs by name, and refuse all other models."""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed, RotaryEmbeddingDinoV3
from timm.models import get_arch_name, get_arch_pretrained_cfgs, is_model_in_modules
from timm.models.beit import Beit
from torch import nn

from vit_adapter.backbone.timm_vit.families import Family, find_family
from vit_adapter.backbone.timm_vit.rope import StoredRope
from vit_adapter.backbone.vit_parts import check_img_size, check_in_channels
from vit_adapter.layers.derived import DerivesTensors
from vit_adapter.utils.hints import did_you_mean

_PLAIN_MODULES = ("beit", "deit", "eva", "vision_transformer", "vision_transformer_sam")
"""The modules of timm.models that hold plain ViTs."""

_OWN_ARGUMENTS = (
    "img_size", "patch_size", "depth", "embed_dim", "drop_path_rate",  # arguments of TimmViT itself
    "in_chans", "num_classes", "global_pool",  # in_channels of TimmViT; there is no classifier
    "dynamic_img_size", "dynamic_img_pad", "patch_drop_rate",  # tokens must form the whole grid
)  # fmt: skip

_LOADING_ARGUMENTS = ("pretrained", "checkpoint_path", "cache_dir")
"""Beginnings of the names of arguments that let timm read or download files."""


def create_plain_vit(
    name: str,
    *,
    patch_size: int,
    in_channels: int,
    img_size: int | Sequence[int] | None,
    sizes: Mapping[str, int | None],
    drop_path_rate: float,
    final_norm: bool,
    model_args: Mapping[str, Any],
) -> tuple[nn.Module, Family]:
    """Build timm's module without classifier and pooling; not pre-trained.

    The arguments are those of :class:`TimmViT`; ``sizes`` holds its ``depth`` and ``embed_dim``.

    Raises:
        ValueError: the name is unknown or not a plain ViT, or an argument does not fit.
    """
    check_name(name)
    check_in_channels(in_channels)
    taken = sorted(set(model_args) & set(_OWN_ARGUMENTS))
    if taken:
        raise ValueError(f"model_args must not contain {taken}: TimmViT sets these itself")
    loading = sorted(key for key in model_args if key.startswith(_LOADING_ARGUMENTS))
    if loading:
        raise ValueError(
            f"model_args must not contain {loading}: weights are loaded from train.vit_checkpoint"
        )
    args = dict(model_args)
    for key, size in sizes.items():
        if size is None:
            continue
        if size < 1:
            raise ValueError(f"{key} must be at least 1, got {size}")
        args[key] = size
    try:
        with torch.device("meta"):  # costs no memory; shows the class and the pre-training grid
            plan = timm.create_model(name, num_classes=0, **args)
    except (TypeError, AssertionError) as error:
        raise ValueError(
            f"timm does not accept the arguments {args} for {name!r}: {error}"
        ) from error
    family = find_family(plan)
    if family is None or not isinstance(plan.patch_embed, PatchEmbed):
        raise ValueError(
            f"timm builds a {type(plan).__name__} for {name!r}, which is not a plain ViT that "
            "TimmViT supports"
        )
    model = timm.create_model(
        name,
        num_classes=0,
        img_size=_image_size(plan, patch_size, img_size),
        patch_size=patch_size,
        in_chans=in_channels,
        drop_path_rate=drop_path_rate,
        **args,
        **family.any_size,
    )
    model.prune_intermediate_layers(indices=1, prune_norm=not final_norm, prune_head=True)
    if final_norm and not isinstance(getattr(model, "norm", None), nn.LayerNorm):
        raise ValueError(
            f"final_norm must be False for {name!r}: timm's model has no LayerNorm after its "
            "last block"
        )
    _adapt(model)
    return model, family


def _adapt(model: nn.Module) -> None:
    """Change what a trunk needs otherwise: sizes of images, rotary positions, kept biases."""
    model.patch_embed.strict_img_size = False
    if isinstance(getattr(model, "rope", None), RotaryEmbeddingDinoV3):
        model.rope = StoredRope(model.rope)
    if getattr(model, "rope", None) is not None:
        # The adapter ties tokens to positions and runs the blocks in groups, so the positions must
        # not be jittered anew for each group.
        model.rope.aug_active = False
    if isinstance(model, Beit):
        for block in model.blocks:
            block.attn.biases = DerivesTensors()  # a module without parameters


def check_name(name: str) -> None:
    """Refuse a name that timm does not know, or an architecture that is not a plain ViT.

    Raises:
        ValueError: the name is refused; the message suggests the nearest names.
    """
    architecture = get_arch_name(name)
    if not timm.is_model(name):
        plain = timm.list_models(module=_PLAIN_MODULES)
        hint = did_you_mean(architecture, plain, otherwise="No plain ViT has a similar name.")
        raise ValueError(f"timm {timm.__version__} has no model {architecture!r}.{hint}")
    if not is_model_in_modules(architecture, _PLAIN_MODULES):
        raise ValueError(
            f"{architecture!r} is not a plain ViT that TimmViT supports; use a model of timm's "
            f"modules {', '.join(_PLAIN_MODULES)}, e.g. vit_base_patch16_224"
        )
    tag = name[len(architecture) + 1 :]
    tags = sorted(filter(None, get_arch_pretrained_cfgs(architecture)))
    if tag and name not in tags:
        raise ValueError(f"timm has no weights {name!r}.{did_you_mean(name, tags, cutoff=0.0)}")


def _image_size(
    plan: nn.Module, patch_size: int, img_size: int | Sequence[int] | None
) -> tuple[int, int]:
    """Image sides in pixels that give the grid of the pre-training, or that of ``img_size``."""
    if patch_size < 1:
        raise ValueError(f"patch_size must be at least 1, got {patch_size}")
    if img_size is None:
        rows, columns = plan.patch_embed.grid_size
    else:
        rows, columns = check_img_size(img_size, patch_size)
    return rows * patch_size, columns * patch_size
