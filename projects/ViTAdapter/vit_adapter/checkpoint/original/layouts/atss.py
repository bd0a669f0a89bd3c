"""ATSS, and what GFL has in common with it: the pyramid from stride 8 and the towers.

Detectron2 keeps the convolutions, norms and activations of a tower in one sequence, so each layer
of the original takes three numbers.
"""

from collections.abc import Collection

from vit_adapter.checkpoint.original.layouts.backbone import backbone_of_detector
from vit_adapter.checkpoint.original.layouts.layout import Layout, find_numbers
from vit_adapter.checkpoint.original.layouts.mask_rcnn import pyramid
from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["ATSS", "dense_detector"]

_LAST_STAGE = 5  # log2 of the stride of a backbone's last output
_NUM_OUTPUTS = 3  # of the backbone that the pyramid reads: strides 8, 16 and 32
_TOWERS = (("cls_convs", "cls_subnet"), ("reg_convs", "bbox_subnet"))


def dense_detector(names: Collection[str], predictors: str) -> list[Rule]:
    """Rules for everything that ATSS and GFL share.

    Args:
        names: of a checkpoint, the original's or ours.
        predictors: how the names of the original's last convolutions begin, such as "atss".
    """
    return [
        *backbone_of_detector(),
        *pyramid(names),
        *_extra_levels(),
        *_towers(names),
        Rule(f"bbox_head.{predictors}_cls.{{leaf}}", "head.cls_score.{leaf}"),
        Rule(f"bbox_head.{predictors}_reg.{{leaf}}", "head.bbox_pred.{leaf}"),
        Rule("bbox_head.scales.{i}.scale", "head.scales.{i}"),
    ]


def _extra_levels() -> list[Rule]:
    """Rules for p6 and p7, which follow the outputs with lateral convolutions."""
    return [
        Rule(
            f"neck.fpn_convs.{_NUM_OUTPUTS + i}.conv.{{leaf}}",
            f"backbone.top_block.p{_LAST_STAGE + 1 + i}.{{leaf}}",
        )
        for i in range(2)
    ]


def _towers(names: Collection[str]) -> list[Rule]:
    layers = find_numbers(r"bbox_head\.cls_convs\.(\d+)\.", names)
    layers |= {i // 3 for i in find_numbers(r"head\.cls_subnet\.(\d+)\.", names)}
    return [
        rule
        for layer in sorted(layers)
        for theirs, ours in _TOWERS
        for rule in (
            Rule(f"bbox_head.{theirs}.{layer}.conv.{{leaf}}", f"head.{ours}.{3 * layer}.{{leaf}}"),
            Rule(
                f"bbox_head.{theirs}.{layer}.gn.{{leaf}}", f"head.{ours}.{3 * layer + 1}.{{leaf}}"
            ),
        )
    ]


def _rules(names: Collection[str]) -> list[Rule]:
    return [
        *dense_detector(names, "atss"),
        Rule("bbox_head.atss_centerness.{leaf}", "head.ctrness.{leaf}"),
    ]


ATSS = Layout(
    name="ATSS",
    tree="detection",
    theirs=r"bbox_head\.atss_",
    ours=r"head\.ctrness\.",
    example="bbox_head.atss_centerness.weight",
    rules=_rules,
)
