"""The hybrid task cascade: stages as in Cascade Mask R-CNN, a semantic branch, and attention."""

from collections.abc import Collection

from vit_adapter.checkpoint.original.layouts.backbone import backbone_behind_attention
from vit_adapter.checkpoint.original.layouts.layout import Layout, convolution
from vit_adapter.checkpoint.original.layouts.mask_rcnn import PROPOSALS, pyramid, region_heads
from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["EXTRA_ATTENTION", "HTC"]

EXTRA_ATTENTION = [
    Rule("neck.0.final_norm.{leaf}", "backbone.bottom_up.final_norm.{leaf}"),
    Rule("neck.0.ffn.{*}", "backbone.bottom_up.block.mlp.{*}"),
    Rule("neck.0.{*}", "backbone.bottom_up.block.{*}"),
]
_HEADS = [
    *region_heads(".{s}"),
    *convolution("roi_head.mask_head.{s}.conv_res", "roi_heads.mask_head.{s}.conv_res"),
    *(
        rule
        for part in ("lateral_convs.{i}", "convs.{i}", "conv_embedding")
        for rule in convolution(f"roi_head.semantic_head.{part}", f"roi_heads.semantic_head.{part}")
    ),
    Rule("roi_head.semantic_head.conv_logits.{leaf}", "roi_heads.semantic_head.conv_logits.{leaf}"),
]


def _rules(names: Collection[str]) -> list[Rule]:
    necks = [*EXTRA_ATTENTION, *pyramid(names, neck="neck.1", norm="gn")]
    return [*backbone_behind_attention(), *necks, *PROPOSALS, *_HEADS]


HTC = Layout(
    name="Hybrid Task Cascade with extra attention",
    tree="detection",
    theirs=r"neck\.0\.|roi_head\.(semantic_head|mask_head\.\d+\.conv_res)\.",
    ours=r"backbone\.bottom_up\.bottom_up\.|roi_heads\.(semantic_head|mask_head\.\d+\.conv_res)\.",
    example="roi_head.semantic_head.conv_logits.weight",
    rules=_rules,
)
