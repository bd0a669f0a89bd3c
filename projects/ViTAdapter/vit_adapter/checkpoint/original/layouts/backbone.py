"""Backbones: alone, or as the only part of a detector in a checkpoint."""

from collections.abc import Iterable

from vit_adapter.checkpoint.original.layouts.layout import Layout
from vit_adapter.checkpoint.original.rules import Rule

__all__ = [
    "BACKBONE",
    "DETECTOR_BACKBONE",
    "NUM_OUTPUTS",
    "adapter_rules",
    "backbone_behind_attention",
    "backbone_of_detector",
    "backbone_of_segmentor",
]

NUM_OUTPUTS = 4  # of every backbone of the original

_TRUNK_PARAMETERS = ("pos_embed", "cls_token")
_TRUNK_MODULES = ("patch_embed", "blocks", "layers", "visual_embed")
_ADAPTER_PARAMETERS = ("level_embed",)
_ADAPTER_MODULES = (
    "spm", "interactions", "up", "up1", "up2", "fpn1", "fpn2", "norm1", "norm2", "norm3", "norm4",
)  # fmt: skip


def _same_names(
    theirs: str, ours: str, parameters: Iterable[str], modules: Iterable[str]
) -> list[Rule]:
    names = [*parameters, *(f"{module}.{{*}}" for module in modules)]
    return [Rule(f"{theirs}{name}", f"{ours}{name}") for name in names]


def adapter_rules(theirs: str, ours: str) -> list[Rule]:
    """Rules for everything in a backbone except its ViT.

    Args:
        theirs: prefix of the original's names.
        ours: prefix of our names.
    """
    return _same_names(theirs, ours, _ADAPTER_PARAMETERS, _ADAPTER_MODULES)


def _backbone(theirs: str, ours: str) -> list[Rule]:
    """Move the ViT into ``vit``; everything else keeps its name."""
    return [
        *_same_names(theirs, f"{ours}vit.", _TRUNK_PARAMETERS, _TRUNK_MODULES),
        *adapter_rules(theirs, ours),
    ]


def backbone_of_detector() -> list[Rule]:
    """Rules for the backbone inside Detectron2's pyramid."""
    return _backbone("backbone.", "backbone.bottom_up.")


def backbone_behind_attention() -> list[Rule]:
    """Rules for the backbone inside the attention inside Detectron2's pyramid."""
    return _backbone("backbone.", "backbone.bottom_up.bottom_up.")


def backbone_of_segmentor() -> list[Rule]:
    """Rules for a backbone whose outputs a head reads directly."""
    return _backbone("backbone.", "backbone.")


DETECTOR_BACKBONE = Layout(
    name="a detector's backbone with 'backbone.' before every key",
    tree=None,
    theirs=r"backbone\.",
    ours=r"backbone\.",
    example="backbone.pos_embed",
    rules=lambda names: backbone_of_detector(),
)
BACKBONE = Layout(
    name="a backbone alone",
    tree=None,
    theirs="",
    ours="",
    example="pos_embed",
    rules=lambda names: _backbone("", ""),
)
