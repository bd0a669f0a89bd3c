"""The segmentor of DINOv2's authors: the original's Mask2Former on a ViT-g of timm's layout."""

from collections.abc import Mapping

from torch import Tensor

from vit_adapter.checkpoint.original.layouts.backbone import adapter_rules
from vit_adapter.checkpoint.original.layouts.layout import Layout
from vit_adapter.checkpoint.original.layouts.mask2former import head_rules
from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["DINOV2"]

_VIT = {
    "pos_embed": "pos_embed",
    "cls_token": "cls_token",
    "patch_embed.{*}": "patch_embed.{*}",
    "blocks.{i}.gamma{n}": "blocks.{i}.ls{n}.gamma",
    "blocks.{i}.norm{n}.{leaf}": "blocks.{i}.norm{n}.{leaf}",
    "blocks.{i}.attn.{*}": "blocks.{i}.attn.{*}",
    # SwiGLU: the gate comes first
    "blocks.{i}.mlp.w1.{leaf}": "blocks.{i}.mlp.fc1.{leaf}@1/2",
    "blocks.{i}.mlp.w2.{leaf}": "blocks.{i}.mlp.fc1.{leaf}@2/2",
    "blocks.{i}.mlp.w3.{leaf}": "blocks.{i}.mlp.fc2.{leaf}",
}
_RULES = [
    *(Rule(f"backbone.{theirs}", f"backbone.vit.model.{ours}") for theirs, ours in _VIT.items()),
    *adapter_rules("backbone.", "backbone."),
    *head_rules("decode_head"),
]


def _check(state_dict: Mapping[str, Tensor]) -> None:
    """See :attr:`Layout.check`; timm's names do not show whether a feed-forward layer is gated."""
    gate = state_dict.get("backbone.blocks.0.mlp.w1.weight")
    last = state_dict.get("backbone.blocks.0.mlp.w3.weight")
    if gate is not None and last is not None and gate.shape[0] != last.shape[1]:
        raise ValueError(
            "only the giant DINOv2, whose blocks have SwiGLU, has a counterpart in the segmentor "
            "of DINOv2's authors; the blocks of this ViT have a plain MLP"
        )


DINOV2 = Layout(
    name="the segmentor of DINOv2's authors",
    tree="dinov2",
    theirs=r"backbone\.blocks\.\d+\.mlp\.w1\.",
    ours=r"backbone\.vit\.model\.blocks\.",
    example="backbone.blocks.0.mlp.w1.weight",
    rules=lambda names: _RULES,
    check=_check,
)
