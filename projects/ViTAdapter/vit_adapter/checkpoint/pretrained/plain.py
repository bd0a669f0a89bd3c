"""Weights of plain, pre-trained ViTs: DeiT, MAE, DINOv2, timm's own names, Google's AugReg.

Shapes: N tokens of the pre-training grid, D embed dim.
"""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vit_adapter.backbone.plain_vit import PlainViT
from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.checkpoint.loading import LoadReport, ResizedEntry
from vit_adapter.checkpoint.pretrained.augreg import convert_augreg, is_augreg
from vit_adapter.checkpoint.pretrained.reader import Reader, TrunkWeights, rename_all
from vit_adapter.checkpoint.pretrained.registry import refuse_other_families, register

_UNUSED_IN_TRUNK = (
    r"^head\b",  # classifier
    r"^head_dist\b",
    r"^pre_logits\b",
    r"^norm\.",  # the final norm: the adapter reads the blocks' outputs instead
    r"^fc_norm\.",
    r"^cls_token$",
    r"^mask_token$",
    r"^decoder_",  # MAE's reconstruction decoder
)
"""Names of classifiers and reconstruction models that a trunk does not have."""

_NOT_PRETRAINED = (
    r"\.gamma[12]$",  # layer scale starts at one, which equals having none
    r"\.residual\.",  # ViTDet's bottlenecks start as the identity
)
"""Names of a trunk that plain pre-training does not have."""

_LAYER_SCALE = re.compile(r"\.(?:ls([12])\.gamma|gamma_([12]))$")


def _adapt(vit: ViTTrunk, state_dict: dict[str, Tensor], source: str) -> TrunkWeights:
    """See :attr:`Reader.adapt`."""
    if is_augreg(state_dict):
        state_dict = convert_augreg(state_dict)
    refuse_other_families(state_dict, PlainViT, source)
    return _match_trunk_names(state_dict, source)


def _match_trunk_names(state_dict: Mapping[str, Tensor], source: str) -> TrunkWeights:
    """Rename layer scales and add a class row to a position embedding without one.

    ``blocks.i.ls1.gamma`` (timm, DINOv2) and ``blocks.i.gamma_1`` (DeiT III) become
    ``blocks.i.gamma1``. A ``pos_embed`` of exactly N rows (1, N, D), from a model whose class token
    has no position, gets a row of zeros in front, which no forward pass reads.

    Raises:
        CheckpointFileError: the file has two spellings of one name.
    """
    renamed = rename_all(state_dict, _rename, source)
    found = renamed.get("pos_embed")
    if found is None or found.dim() != 3 or _grid_side(found.shape[1]) is None:
        return TrunkWeights(renamed)
    renamed["pos_embed"] = torch.cat([torch.zeros_like(found[:, :1]), found], dim=1)
    shapes = tuple(found.shape), tuple(renamed["pos_embed"].shape)
    return TrunkWeights(renamed, (ResizedEntry("pos_embed", *shapes),))


def _rename(name: str) -> str:
    return _LAYER_SCALE.sub(lambda found: f".gamma{found[1] or found[2]}", name)


def _advise(vit: ViTTrunk, report: LoadReport) -> str:
    """See :attr:`Reader.advise`; names both grids if position embeddings differ in length."""
    general = (
        "Choose weights of the same size and patch size, or change embed_dim, depth, "
        "num_heads, patch_size or img_size in the config."
    )
    shapes = next((entry[1:] for entry in report.misshapen if entry[0] == "pos_embed"), None)
    if shapes is None or len(shapes[0]) != 3 or shapes[0][2] != shapes[1][2]:
        return general
    found, expected = (_grid_side(shape[1] - 1) for shape in shapes)
    if found is None or expected is None:
        return general
    patch = vit.patch_size
    return (
        f"The position embedding of the checkpoint is for a {found}x{found} grid "
        f"({found * patch} pixels at patch size {patch}), that of the model for "
        f"{expected}x{expected} ({expected * patch} pixels). Build the trunk for the grid of the "
        f"checkpoint, img_size={found * patch}; every forward pass resizes it to the image."
    )


def _grid_side(rows: int) -> int | None:
    side = math.isqrt(max(rows, 0))
    return side if side > 0 and side * side == rows else None


register(
    Reader(
        trunk=PlainViT,
        marks={r"^blocks\.\d+\.attn\.qkv\.weight$": "a plain ViT"},
        marks_are_shared=True,
        adapt=_adapt,
        passed_over=_UNUSED_IN_TRUNK,
        not_pretrained=_NOT_PRETRAINED,
        advise=_advise,
    )
)
