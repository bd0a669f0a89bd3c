"""The parts of the hybrid task cascade that no other detector has.

Its mask heads have the names of a cascade's mask heads, and one convolution more.
"""

from vit_adapter.checkpoint.original.layouts.layout import convolution
from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["EXTRA_ATTENTION", "MASK_FLOW", "SEMANTIC_BRANCH"]

SEMANTIC_BRANCH = [
    *(
        rule
        for part in ("lateral_convs.{i}", "convs.{i}", "conv_embedding")
        for rule in convolution(f"roi_head.semantic_head.{part}", f"roi_heads.semantic_head.{part}")
    ),
    Rule("roi_head.semantic_head.conv_logits.{leaf}", "roi_heads.semantic_head.conv_logits.{leaf}"),
]
MASK_FLOW = convolution("roi_head.mask_head.{i}.conv_res", "roi_heads.mask_head.{i}.conv_res")
EXTRA_ATTENTION = [
    Rule("neck.0.final_norm.{leaf}", "backbone.bottom_up.final_norm.{leaf}"),
    Rule("neck.0.ffn.{*}", "backbone.bottom_up.block.mlp.{*}"),
    Rule("neck.0.{*}", "backbone.bottom_up.block.{*}"),
]
