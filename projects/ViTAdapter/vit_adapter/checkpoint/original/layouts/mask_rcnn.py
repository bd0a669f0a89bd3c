"""Mask R-CNN with FPN.

The tables also hold for the libraries that the original builds on, so any of their Mask R-CNNs with
this neck and these heads has the same names. Nothing is transposed or reordered: both sides have
the same order of classes with the background last, encode boxes in the same way, and read channels,
rows and columns in this order in the first fully connected layer.
"""

from collections.abc import Collection

from vit_adapter.checkpoint.original.layouts.backbone import NUM_OUTPUTS, backbone_of_detector
from vit_adapter.checkpoint.original.layouts.layout import Layout, convolution, find_numbers
from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["MASK_RCNN", "PROPOSALS", "pyramid"]

_FIRST_STAGE = 2  # log2 of the stride of a backbone's first output


def pyramid(names: Collection[str]) -> list[Rule]:
    """Rules for a pyramid on all or only the last outputs of the backbone.

    Detectron2 numbers levels by log2 of the stride, the original from zero. Extra levels, without
    a lateral convolution, are not among them.
    """
    laterals = find_numbers(r"neck\.lateral_convs\.(\d+)\.", names)
    stages = find_numbers(r"backbone\.fpn_lateral(\d+)\.", names)
    first = min(stages, default=_FIRST_STAGE)
    if laterals:
        first = _FIRST_STAGE + NUM_OUTPUTS - len(laterals)
    return [
        rule
        for level in range(len(laterals or stages))
        for part, ours in (("lateral_convs", "fpn_lateral"), ("fpn_convs", "fpn_output"))
        for rule in convolution(f"neck.{part}.{level}", f"backbone.{ours}{first + level}")
    ]


PROPOSALS = [
    # one convolution, or several as in the detectors trained from MAE
    Rule("rpn_head.rpn_conv.{leaf}", "proposal_generator.rpn_head.conv.{leaf}"),
    Rule("rpn_head.rpn_conv.{i}.conv.{leaf}", "proposal_generator.rpn_head.conv.conv{i}.{leaf}"),
    Rule("rpn_head.rpn_cls.{leaf}", "proposal_generator.rpn_head.objectness_logits.{leaf}"),
    Rule("rpn_head.rpn_reg.{leaf}", "proposal_generator.rpn_head.anchor_deltas.{leaf}"),
]
_BOX = "roi_head.bbox_head"
_MASK = "roi_head.mask_head"
_HEADS = [
    *convolution(f"{_BOX}.shared_convs.{{i}}", "roi_heads.box_head.conv{i+1}"),
    Rule(f"{_BOX}.shared_fcs.{{i}}.{{leaf}}", "roi_heads.box_head.fc{i+1}.{leaf}"),
    Rule(f"{_BOX}.fc_cls.{{leaf}}", "roi_heads.box_predictor.cls_score.{leaf}"),
    Rule(f"{_BOX}.fc_reg.{{leaf}}", "roi_heads.box_predictor.bbox_pred.{leaf}"),
    *convolution(f"{_MASK}.convs.{{i}}", "roi_heads.mask_head.mask_fcn{i+1}"),
    Rule(f"{_MASK}.upsample.{{leaf}}", "roi_heads.mask_head.deconv.{leaf}"),
    Rule(f"{_MASK}.conv_logits.{{leaf}}", "roi_heads.mask_head.predictor.{leaf}"),
]


def _rules(names: Collection[str]) -> list[Rule]:
    return [*backbone_of_detector(), *pyramid(names), *PROPOSALS, *_HEADS]


# Any detector that no other layout recognises; the error message then lists its unknown parts.
MASK_RCNN = Layout(
    name="Mask R-CNN with FPN",
    tree="detection",
    theirs=r"(neck|rpn_head|roi_head|bbox_head)\.",
    ours=r"backbone\.(bottom_up\.|fpn_)|proposal_generator\.|roi_heads\.",
    example="roi_head.bbox_head.fc_cls.weight",
    rules=_rules,
)
