"""Mask R-CNN with FPN, or with 1x1 convolutions in its place.

The tables also hold for the libraries that the original builds on, so any of their Mask R-CNNs with
this neck and these heads has the same names. Nothing is transposed or reordered: both sides have
the same order of classes with the background last, encode boxes in the same way, and read channels,
rows and columns in this order in the first fully connected layer.
"""

import re
from collections.abc import Collection

from vit_adapter.checkpoint.original.layouts.backbone import NUM_OUTPUTS, backbone_of_detector
from vit_adapter.checkpoint.original.layouts.layout import Layout, convolution, find_numbers
from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["MASK_RCNN", "PROPOSALS", "pyramid", "region_heads"]

_FIRST_STAGE = 2  # log2 of the stride of a backbone's first output


def pyramid(names: Collection[str], *, neck: str = "neck", norm: str = "bn") -> list[Rule]:
    """Rules for a pyramid on all or only the last outputs of the backbone.

    Detectron2 numbers levels by log2 of the stride, the original from zero. Extra levels, without
    a lateral convolution, are not among them. ``neck`` and ``norm`` are the original's names.
    """
    laterals = find_numbers(rf"{re.escape(neck)}\.lateral_convs\.(\d+)\.", names)
    stages = find_numbers(r"backbone\.fpn_lateral(\d+)\.", names)
    first = min(stages, default=_FIRST_STAGE)
    if laterals:
        first = _FIRST_STAGE + NUM_OUTPUTS - len(laterals)
    return [
        rule
        for level in range(len(laterals or stages))
        for part, ours in (("lateral_convs", "fpn_lateral"), ("fpn_convs", "fpn_output"))
        for rule in convolution(
            f"{neck}.{part}.{level}", f"backbone.{ours}{first + level}", norm=norm
        )
    ]


PROPOSALS = [
    # one convolution, or several as in the detectors trained from MAE
    Rule("rpn_head.rpn_conv.{leaf}", "proposal_generator.rpn_head.conv.{leaf}"),
    Rule("rpn_head.rpn_conv.{i}.conv.{leaf}", "proposal_generator.rpn_head.conv.conv{i}.{leaf}"),
    Rule("rpn_head.rpn_cls.{leaf}", "proposal_generator.rpn_head.objectness_logits.{leaf}"),
    Rule("rpn_head.rpn_reg.{leaf}", "proposal_generator.rpn_head.anchor_deltas.{leaf}"),
]
_CHANNEL_MAPPER = [Rule("neck.convs.{i}.conv.{leaf}", "backbone.convs.{i}.{leaf}")]


def region_heads(stage: str = "") -> list[Rule]:
    """Rules for the box head and the mask head; ``".{s}"`` if each stage has its own."""
    their_box, their_mask = f"roi_head.bbox_head{stage}", f"roi_head.mask_head{stage}"
    box, mask = f"roi_heads.box_head{stage}", f"roi_heads.mask_head{stage}"
    predictor = f"roi_heads.box_predictor{stage}"
    return [
        *convolution(f"{their_box}.shared_convs.{{i}}", f"{box}.conv{{i+1}}"),
        Rule(f"{their_box}.shared_fcs.{{i}}.{{leaf}}", f"{box}.fc{{i+1}}.{{leaf}}"),
        Rule(f"{their_box}.fc_cls.{{leaf}}", f"{predictor}.cls_score.{{leaf}}"),
        Rule(f"{their_box}.fc_reg.{{leaf}}", f"{predictor}.bbox_pred.{{leaf}}"),
        *convolution(f"{their_mask}.convs.{{i}}", f"{mask}.mask_fcn{{i+1}}"),
        Rule(f"{their_mask}.upsample.{{leaf}}", f"{mask}.deconv.{{leaf}}"),
        Rule(f"{their_mask}.conv_logits.{{leaf}}", f"{mask}.predictor.{{leaf}}"),
    ]


def _rules(names: Collection[str]) -> list[Rule]:
    necks = [*pyramid(names), *_CHANNEL_MAPPER]
    return [*backbone_of_detector(), *necks, *PROPOSALS, *region_heads()]


# Any detector that no other layout recognises; the error message then lists its unknown parts.
MASK_RCNN = Layout(
    name="Mask R-CNN with FPN",
    tree="detection",
    theirs=r"(neck|rpn_head|roi_head|bbox_head)\.",
    ours=r"backbone\.(bottom_up\.|fpn_)|proposal_generator\.|roi_heads\.",
    example="roi_head.bbox_head.fc_cls.weight",
    rules=_rules,
)
