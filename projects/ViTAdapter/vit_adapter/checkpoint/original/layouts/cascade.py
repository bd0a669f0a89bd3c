"""Cascade Mask R-CNN with FPN: Mask R-CNN with a box head and a mask head for each stage."""

from collections.abc import Collection

from vit_adapter.checkpoint.original.layouts.backbone import backbone_of_detector
from vit_adapter.checkpoint.original.layouts.layout import Layout
from vit_adapter.checkpoint.original.layouts.mask_rcnn import PROPOSALS, pyramid, region_heads
from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["CASCADE"]


def _rules(names: Collection[str]) -> list[Rule]:
    return [*backbone_of_detector(), *pyramid(names), *PROPOSALS, *region_heads(".{s}")]


CASCADE = Layout(
    name="Cascade Mask R-CNN with FPN",
    tree="detection",
    theirs=r"roi_head\.bbox_head\.\d+\.shared_",
    ours=r"roi_heads\.box_head\.\d+\.",
    example="roi_head.bbox_head.0.shared_fcs.0.weight",
    rules=_rules,
)
