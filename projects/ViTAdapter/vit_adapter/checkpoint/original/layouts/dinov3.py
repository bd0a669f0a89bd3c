"""The segmentor of DINOv3's authors: an adapter without injectors, and Mask2Former.

They publish the ViT in a file of its own, which has the names of the ViT alone. With ``VIT`` in
front of these names, the two files together are the state dict of their whole model.
"""

import re
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from vit_adapter.checkpoint.original.layouts.backbone import adapter_rules
from vit_adapter.checkpoint.original.layouts.layout import Layout, Made
from vit_adapter.checkpoint.original.layouts.mask2former_authors import TRANSFORMER_DECODER
from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["DINOV3", "VIT"]

_ADAPTER = "segmentation_model.0."
_HEAD = "segmentation_model.1."
VIT = f"{_ADAPTER}backbone."
"""What the names of the ViT begin with in the whole model."""

_VIT = {
    "cls_token": "cls_token",
    "storage_tokens": "reg_token",
    "patch_embed.{*}": "patch_embed.{*}",
    "rope_embed.periods": "rope.periods",
    "norm.{leaf}": "norm.{leaf}",
    "blocks.{i}.ls{n}.gamma": "blocks.{i}.gamma_{n}",
    "blocks.{i}.norm{n}.{leaf}": "blocks.{i}.norm{n}.{leaf}",
    "blocks.{i}.attn.qkv.weight": "blocks.{i}.attn.qkv.weight",
    "blocks.{i}.attn.qkv.bias@1/3": "blocks.{i}.attn.q_bias",
    "blocks.{i}.attn.qkv.bias@3/3": "blocks.{i}.attn.v_bias",
    "blocks.{i}.attn.proj.{leaf}": "blocks.{i}.attn.proj.{leaf}",
}
_MLP = {f"blocks.{{i}}.mlp.fc{n}.{{leaf}}": f"blocks.{{i}}.mlp.fc{n}.{{leaf}}" for n in (1, 2)}
_SWIGLU = {
    "blocks.{i}.mlp.w1.{leaf}": "blocks.{i}.mlp.fc1_g.{leaf}",
    "blocks.{i}.mlp.w2.{leaf}": "blocks.{i}.mlp.fc1_x.{leaf}",
    "blocks.{i}.mlp.w3.{leaf}": "blocks.{i}.mlp.fc2.{leaf}",
}
_PIXEL_LAYER = "encoder.layers.{i}"
_PIXEL_DECODER = {
    "input_convs.{i}.0.{leaf}": "input_convs.{i}.conv.{leaf}",
    "input_convs.{i}.1.{leaf}": "input_convs.{i}.gn.{leaf}",
    "lateral_convs.0.norm.{leaf}": "lateral_convs.0.gn.{leaf}",
    "lateral_convs.0.{leaf}": "lateral_convs.0.conv.{leaf}",
    "output_convs.0.norm.{leaf}": "output_convs.0.gn.{leaf}",
    "output_convs.0.{leaf}": "output_convs.0.conv.{leaf}",
    "mask_feature.{leaf}": "mask_feature.{leaf}",
    "encoder.level_encoding": "level_encoding.weight",
    f"encoder.{_PIXEL_LAYER}.self_attn.{{*}}": f"{_PIXEL_LAYER}.self_attn.{{*}}",
    f"encoder.{_PIXEL_LAYER}.norm{{n}}.{{leaf}}": f"{_PIXEL_LAYER}.norm{{n}}.{{leaf}}",
    f"encoder.{_PIXEL_LAYER}.linear{{n}}.{{leaf}}": f"{_PIXEL_LAYER}.ffn.linear{{n}}.{{leaf}}",
}
_TRANSFORMER_DECODER = {"post_norm.{leaf}": "post_norm.{leaf}", **TRANSFORMER_DECODER}


def _rules(names: Collection[str]) -> Sequence[Rule]:
    gated = any(".mlp.w1." in name or ".mlp.fc1_g." in name for name in names)
    parts = (
        (VIT, "backbone.vit.model.", {**_VIT, **(_SWIGLU if gated else _MLP)}),
        (f"{_HEAD}pixel_decoder.", "head.pixel_decoder.", _PIXEL_DECODER),
        (f"{_HEAD}predictor.", "head.transformer_decoder.", _TRANSFORMER_DECODER),
    )
    return [
        *(
            Rule(f"{theirs}{their_name}", f"{ours}{our_name}")
            for theirs, ours, table in parts
            for their_name, our_name in table.items()
        ),
        *adapter_rules(_ADAPTER, "backbone."),
    ]


def _check(state_dict: Mapping[str, Tensor]) -> None:
    """See :attr:`Layout.check`."""
    if f"{VIT}cls_token" not in state_dict:
        raise ValueError(
            f"the ViT is missing (no name begins with {VIT}): this is the file of DINOv3's adapter "
            "and head, ..._m2f_head-*.pth; the ViT's own file, ..._pretrain_*.pth, is needed as "
            "well, with convert_checkpoint.py as --backbone FILE"
        )
    if f"{VIT}norm.weight" not in state_dict:
        raise ValueError(
            "the final norm of the ViT is missing, which DINOv3's adapter reads; only models whose "
            "ViT has final_norm=True can be converted"
        )
    adapter, vit = state_dict.get(f"{_ADAPTER}level_embed"), state_dict[f"{VIT}cls_token"]
    if adapter is not None and adapter.shape[-1] != vit.shape[-1]:
        raise ValueError(
            f"adapter and head are for a ViT of width {adapter.shape[-1]}, but this ViT has a "
            f"width of {vit.shape[-1]}; give the two files of the same model"
        )
    injectors = [name for name in state_dict if ".injector." in name]
    if injectors:
        raise ValueError(
            f"DINOv3's adapter has no injectors, but this one has {len(injectors)} tensors of "
            f"injectors, such as {injectors[0]}; only adapters with mode='frozen' can be converted"
        )


def _made(state_dict: Mapping[str, Tensor]) -> dict[str, Made]:
    """See :attr:`Layout.made`; the values are the initial ones."""
    token = state_dict[f"{VIT}cls_token"]
    width = token.shape[-1]
    unread = "initial values; the segmentor does not read it"
    made = {f"{VIT}mask_token": Made(token.new_zeros(1, width), unread)}
    biases = [name for name in state_dict if name.endswith(".attn.qkv.bias")]
    for name in biases:
        mask = torch.ones_like(state_dict[name])
        mask[width : 2 * width] = 0
        made[f"{name}_mask"] = Made(mask, "ones, and zeros for the keys")
    if not biases:  # 7B, the only one that was trained with this norm
        made[f"{VIT}local_cls_norm.weight"] = Made(token.new_ones(width), unread)
        made[f"{VIT}local_cls_norm.bias"] = Made(token.new_zeros(width), unread)
    return made


_VIT_PREFIX = re.escape(VIT)

DINOV3 = Layout(
    name="the segmentor of DINOv3's authors",
    tree="dinov3",
    theirs=r"segmentation_model\.",
    ours=r"backbone\.vit\.model\.rope\.periods$",
    example="segmentation_model.0.backbone.rope_embed.periods",
    rules=_rules,
    left_out={
        rf"{_VIT_PREFIX}(mask_token|local_cls_norm\.)": "the segmentor does not read it",
        rf"{_VIT_PREFIX}blocks\.\d+\.attn\.qkv\.bias_mask$": "the same in all models",
        rf"{_VIT_PREFIX}blocks\.\d+\.attn\.qkv\.bias@2/3$": "masked: keys have no bias",
    },
    check=_check,
    made=_made,
)
