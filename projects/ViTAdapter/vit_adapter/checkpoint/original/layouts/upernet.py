"""UPerNet, with or without its auxiliary head."""

from collections.abc import Collection

from vit_adapter.checkpoint.original.layouts.backbone import backbone_of_segmentor
from vit_adapter.checkpoint.original.layouts.layout import Layout, convolution
from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["UPERNET"]

_SIDE = "sem_seg_head.auxiliary."


def _rules(names: Collection[str]) -> list[Rule]:
    """Rules for one head, or for two heads that are both parts of ``sem_seg_head``."""
    auxiliary = any(name.startswith(("auxiliary_head.", _SIDE)) for name in names)
    head = "sem_seg_head.main" if auxiliary else "sem_seg_head"
    return [
        *backbone_of_segmentor(),
        *convolution("decode_head.psp_modules.{i}.1", f"{head}.psp_modules.{{i}}.1"),
        *convolution("decode_head.bottleneck", f"{head}.bottleneck"),
        *convolution("decode_head.lateral_convs.{i}", f"{head}.lateral_convs.{{i}}"),
        *convolution("decode_head.fpn_convs.{i}", f"{head}.fpn_convs.{{i}}"),
        *convolution("decode_head.fpn_bottleneck", f"{head}.fpn_bottleneck"),
        Rule("decode_head.conv_seg.{leaf}", f"{head}.conv_seg.{{leaf}}"),
        *convolution("auxiliary_head.convs.{i}", f"{_SIDE}convs.{{i}}"),
        Rule("auxiliary_head.conv_seg.{leaf}", f"{_SIDE}conv_seg.{{leaf}}"),
    ]


# Any segmentor that no other layout recognises; the error message then lists its unknown parts.
UPERNET = Layout(
    name="UPerNet",
    tree="segmentation",
    theirs=r"(decode|auxiliary)_head\.",
    ours=r"sem_seg_head\.",
    example="decode_head.conv_seg.weight",
    rules=_rules,
)
