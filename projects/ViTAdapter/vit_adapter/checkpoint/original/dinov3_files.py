"""DINOv3's segmentor in two files, as published: the ViT, and the adapter with the head."""

from collections.abc import Mapping

from torch import Tensor

from vit_adapter.checkpoint.original.layouts.dinov3 import VIT
from vit_adapter.checkpoint.original.provenance import find_tree

__all__ = ["join_files", "split_files"]

_MARK = "rope_embed.periods"
"""A name that every file of a ViT of DINOv3's authors has."""


def join_files(
    weights: Mapping[str, Tensor], vit: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Return the state dict of the whole model.

    Args:
        weights: of the file of adapter and head, or of any other checkpoint.
        vit: of the file of the ViT; None if there is only one file.

    Returns:
        All names; those of ``vit`` with :data:`VIT` in front.

    Raises:
        ValueError: a file is not what it should be; the message says which one is needed.
    """
    if vit is None:
        if _MARK in weights:
            raise ValueError(
                "IN holds DINOv3's ViT alone, ..._pretrain_*.pth: give the file of adapter and "
                "head, ..._m2f_head-*.pth, as IN and this one as --backbone FILE. To train with "
                "this ViT, no conversion is needed: train.vit_checkpoint=FILE"
            )
        return dict(weights)
    if find_tree(weights) != "dinov3":
        raise ValueError(
            "--backbone is only for DINOv3's segmentor, but IN is another checkpoint (no name "
            "begins with segmentation_model.); give the file of adapter and head, "
            "..._m2f_head-*.pth, as IN, or omit --backbone"
        )
    if any(name.startswith(VIT) for name in weights):
        raise ValueError(f"IN already holds a ViT (names that begin with {VIT}); omit --backbone")
    if _MARK not in vit:
        raise ValueError(
            f"the file of --backbone is not that of a ViT of DINOv3's authors: it has no {_MARK}. "
            f"Its first names are {', '.join(list(vit)[:5])}; give their file, "
            "..._pretrain_*.pth"
        )
    return {**weights, **{f"{VIT}{name}": tensor for name, tensor in vit.items()}}


def split_files(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split the whole model: the opposite of :func:`join_files`.

    Returns:
        The weights of adapter and head, and those of the ViT.

    Raises:
        ValueError: it is not DINOv3's segmentor.
    """
    if find_tree(weights) != "dinov3":
        raise ValueError(
            "--backbone is only for DINOv3's segmentor, whose ViT has a file of its own; "
            "omit --backbone"
        )
    head = {name: tensor for name, tensor in weights.items() if not name.startswith(VIT)}
    vit = {name.removeprefix(VIT): weights[name] for name in weights if name not in head}
    return head, vit
