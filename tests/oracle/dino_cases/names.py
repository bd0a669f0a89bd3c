"""Our names for the parameters of the golden cases."""

import re
from collections.abc import Callable
from functools import cache

import torch
from dino_cases.reader import read
from torch import Tensor

from vit_adapter.checkpoint.original import convert, convert_state_dict

ADAPTER = "segmentation_model.0."
VIT = "segmentation_model.0.backbone."
HEAD = "segmentation_model.1."
_LAYER = "transformer_decoder.layers"
_HEAD_RULES: tuple[tuple[str, str | Callable[[re.Match], str]], ...] = (
    (r"pixel_decoder\.input_convs\.(\d+)\.0\.", r"pixel_decoder.input_convs.\1.conv."),
    (r"pixel_decoder\.input_convs\.(\d+)\.1\.", r"pixel_decoder.input_convs.\1.gn."),
    (r"pixel_decoder\.(\w+_convs\.\d+)\.norm\.", r"pixel_decoder.\1.gn."),
    (r"pixel_decoder\.(\w+_convs\.\d+)\.weight", r"pixel_decoder.\1.conv.weight"),
    (r"pixel_decoder\.encoder\.level_encoding", r"pixel_decoder.level_encoding.weight"),
    (r"pixel_decoder\.encoder\.encoder\.layers\.(\d+)\.linear",
     r"pixel_decoder.encoder.layers.\1.ffn.linear"),
    (r"pixel_decoder\.encoder\.encoder\.", r"pixel_decoder.encoder."),
    (r"predictor\.transformer_cross_attention_layers\.(\d+)\.norm\.", rf"{_LAYER}.\1.norm1."),
    (r"predictor\.transformer_cross_attention_layers\.(\d+)\.multihead_attn\.",
     rf"{_LAYER}.\1.cross_attn."),
    (r"predictor\.transformer_self_attention_layers\.(\d+)\.norm\.", rf"{_LAYER}.\1.norm2."),
    (r"predictor\.transformer_self_attention_layers\.(\d+)\.", rf"{_LAYER}.\1."),
    (r"predictor\.transformer_ffn_layers\.(\d+)\.norm\.", rf"{_LAYER}.\1.norm3."),
    (r"predictor\.transformer_ffn_layers\.(\d+)\.", rf"{_LAYER}.\1.ffn."),
    (r"predictor\.class_embed\.", r"transformer_decoder.cls_embed."),
    (r"predictor\.mask_embed\.layers\.(\d+)\.",
     lambda match: f"transformer_decoder.mask_embed.{2 * int(match[1])}."),
    (r"predictor\.", r"transformer_decoder."),
)  # fmt: skip
"""Names in DINOv3's head and ours, the first rule that fits counts."""


def rename_dinov3(name: str) -> str:
    """Our name, in a model with ``backbone`` and ``head``, of a parameter outside the ViT."""
    if name.startswith(ADAPTER):
        return f"backbone.{name.removeprefix(ADAPTER)}"
    name = name.removeprefix(HEAD)
    for theirs, ours in _HEAD_RULES:
        if re.match(theirs, name):
            return f"head.{re.sub(rf'^{theirs}', ours, name)}"
    return f"head.{name}"


@cache
def _names_of_dinov2() -> dict[str, str]:
    return convert(read("dinov2_params")).names


def rename_dinov2(name: str) -> str:
    """The same for DINOv2."""
    return _names_of_dinov2()[name]


def convert_dinov2(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """All parameters of DINOv2's segmentor; the ViT's get the names that timm's ViT has."""
    converted = convert_state_dict(state_dict)
    for name in list(converted):
        if not name.startswith("backbone.vit."):
            continue
        value = converted.pop(name)
        name = name.replace("backbone.vit.", "backbone.vit.model.")
        name = re.sub(r"\.gamma(\d)$", r".ls\1.gamma", name)
        if ".mlp.w2." in name:  # joined with w1
            continue
        if ".mlp.w1." in name:
            theirs = name.replace("backbone.vit.model.", "backbone.")
            value = torch.cat([value, state_dict[theirs.replace(".w1.", ".w2.")]])
        name = name.replace(".mlp.w1.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")
        converted[name] = value
    return converted
