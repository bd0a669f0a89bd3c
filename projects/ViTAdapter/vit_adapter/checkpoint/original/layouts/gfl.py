"""GFL. The order of its box logits is the same on both sides: left, top, right, bottom."""

from collections.abc import Collection

from vit_adapter.checkpoint.original.layouts.atss import dense_detector
from vit_adapter.checkpoint.original.layouts.layout import Layout
from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["GFL"]


def _rules(names: Collection[str]) -> list[Rule]:
    return [
        *dense_detector(names, "gfl"),
        Rule("bbox_head.integral.project", "head.integral.project"),
    ]


GFL = Layout(
    name="GFL",
    tree="detection",
    theirs=r"bbox_head\.(gfl_|integral\.)",
    ours=r"head\.integral\.",
    example="bbox_head.integral.project",
    rules=_rules,
)
