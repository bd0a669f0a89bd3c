"""What the names of a plain ViT's weights say about it, for messages."""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from vit_adapter.backbone.timm_vit import TimmViT
from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.checkpoint.files import CheckpointFileError

__all__ = ["describe_difference", "refuse_other_tokens"]

_REGISTERS = {"reg_token", "register_tokens", "storage_tokens"}
_KINDS = {
    (False, False): "with neither registers nor learned positions",
    (False, True): "with learned positions and without registers, like DINOv2",
    (True, False): "with registers and without learned positions, like DINOv3",
    (True, True): "with registers and learned positions, like DINOv2 with registers",
}
_FIRST_NORM = re.compile(r"(?:^|\.)blocks\.(\d+)\.norm1\.weight$")


def refuse_other_tokens(names: Collection[str], vit: TimmViT, source: str) -> None:
    """Refuse a file whose registers and learned positions are not those of the model.

    DINOv2, DINOv2 with registers and DINOv3 differ in them.

    Args:
        names: names in the file. Those of files without a plain ``cls_token`` are not judged.
        vit: the model.
        source: name of the file, for messages.

    Raises:
        CheckpointFileError: the file is refused; the message describes both sides.
    """
    model = vit.model.state_dict()
    if "cls_token" not in names or "cls_token" not in model:
        return
    found, expected = _describe(names), _describe(model)
    if found != expected:
        raise CheckpointFileError(
            f"checkpoint {source!r} holds a ViT {found}, but timm's {vit.name!r} is one "
            f"{expected}. Nothing was loaded. Choose weights of the model's kind, or give TimmViT "
            "the name of the model that the weights belong to, such as vit_small_patch14_dinov2, "
            "vit_small_patch14_reg4_dinov2 or vit_small_patch16_dinov3"
        )


def describe_difference(state_dict: Mapping[str, Tensor], vit: ViTTrunk) -> str:
    """Name the sizes of both sides in brackets; "" if they are equal or the names do not show them.

    Args:
        state_dict: weights of a ViT.
        vit: the model.
    """
    norms = {
        found[1]: tensor
        for name, tensor in state_dict.items()
        if (found := _FIRST_NORM.search(name))
    }
    if not norms:
        return ""
    width = next(iter(norms.values())).shape[0]
    if (len(norms), width) == (vit.depth, vit.embed_dim):
        return ""
    return (
        f" ({len(norms)} blocks of width {width} in the checkpoint, {vit.depth} of width "
        f"{vit.embed_dim} in the model)"
    )


def _describe(names: Collection[str]) -> str:
    return _KINDS[bool(_REGISTERS & set(names)), "pos_embed" in names]
