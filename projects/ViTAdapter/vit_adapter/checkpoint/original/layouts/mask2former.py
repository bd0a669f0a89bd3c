"""Mask2Former of the segmentors and, with the same parts, of the panoptic detector."""

from collections.abc import Collection
from functools import partial

from vit_adapter.checkpoint.original.layouts.backbone import backbone_of_segmentor
from vit_adapter.checkpoint.original.layouts.layout import Layout
from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["MASK2FORMER", "PANOPTIC_MASK2FORMER", "head_rules"]

_PIXEL_LAYER = "pixel_decoder.encoder.layers.{i}"
_MASK_LAYER = "transformer_decoder.layers.{i}"
_MASK2FORMER = {
    "pixel_decoder.input_convs.{*}": "pixel_decoder.input_convs.{*}",
    "pixel_decoder.lateral_convs.{*}": "pixel_decoder.lateral_convs.{*}",
    "pixel_decoder.output_convs.{*}": "pixel_decoder.output_convs.{*}",
    "pixel_decoder.mask_feature.{leaf}": "pixel_decoder.mask_feature.{leaf}",
    "pixel_decoder.level_encoding.{leaf}": "pixel_decoder.level_encoding.{leaf}",
    f"{_PIXEL_LAYER}.attentions.0.{{*}}": f"{_PIXEL_LAYER}.self_attn.{{*}}",
    f"{_PIXEL_LAYER}.ffns.0.layers.0.0.{{leaf}}": f"{_PIXEL_LAYER}.ffn.linear1.{{leaf}}",
    f"{_PIXEL_LAYER}.ffns.0.layers.1.{{leaf}}": f"{_PIXEL_LAYER}.ffn.linear2.{{leaf}}",
    f"{_PIXEL_LAYER}.norms.{{n}}.{{leaf}}": f"{_PIXEL_LAYER}.norm{{n+1}}.{{leaf}}",
    f"{_MASK_LAYER}.attentions.0.attn.{{*}}": f"{_MASK_LAYER}.cross_attn.{{*}}",
    f"{_MASK_LAYER}.attentions.1.attn.{{*}}": f"{_MASK_LAYER}.self_attn.{{*}}",
    f"{_MASK_LAYER}.ffns.0.layers.0.0.{{leaf}}": f"{_MASK_LAYER}.ffn.linear1.{{leaf}}",
    f"{_MASK_LAYER}.ffns.0.layers.1.{{leaf}}": f"{_MASK_LAYER}.ffn.linear2.{{leaf}}",
    f"{_MASK_LAYER}.norms.{{n}}.{{leaf}}": f"{_MASK_LAYER}.norm{{n+1}}.{{leaf}}",
    "transformer_decoder.post_norm.{leaf}": "transformer_decoder.post_norm.{leaf}",
    "query_feat.{leaf}": "transformer_decoder.query_feat.{leaf}",
    "query_embed.{leaf}": "transformer_decoder.query_embed.{leaf}",
    "level_embed.{leaf}": "transformer_decoder.level_embed.{leaf}",
    "cls_embed.{leaf}": "transformer_decoder.cls_embed.{leaf}",
    "mask_embed.{*}": "transformer_decoder.mask_embed.{*}",
}


def head_rules(head: str) -> list[Rule]:
    """Rules for the head alone, which the original calls ``head``."""
    return [Rule(f"{head}.{theirs}", f"head.{ours}") for theirs, ours in _MASK2FORMER.items()]


def _rules(names: Collection[str], head: str) -> list[Rule]:
    return [*backbone_of_segmentor(), *head_rules(head)]


_OURS = r"head\.(pixel|transformer)_decoder\."

MASK2FORMER = Layout(
    name="Mask2Former",
    tree="segmentation",
    theirs=(
        r"decode_head\.(pixel_decoder|transformer_decoder|query_feat|(query|level|cls|mask)_embed)\."
    ),
    ours=_OURS,
    example="decode_head.query_feat.weight",
    rules=partial(_rules, head="decode_head"),
)
PANOPTIC_MASK2FORMER = Layout(
    name="Mask2Former of the panoptic detector",
    tree="detection",
    theirs=r"panoptic_head\.",
    ours=_OURS,
    example="panoptic_head.query_feat.weight",
    rules=partial(_rules, head="panoptic_head"),
)
