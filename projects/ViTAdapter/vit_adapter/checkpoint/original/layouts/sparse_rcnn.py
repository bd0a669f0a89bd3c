"""Sparse R-CNN. Both sides have the same order of the two kernels that a proposal makes."""

from collections.abc import Collection

from vit_adapter.checkpoint.original.layouts.backbone import backbone_of_detector
from vit_adapter.checkpoint.original.layouts.layout import Layout
from vit_adapter.checkpoint.original.layouts.mask_rcnn import pyramid
from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["SPARSE_RCNN"]

_PARTS = (
    ("attention.attn.{*}", "attention.{*}"),
    ("attention_norm.{leaf}", "attention_norm.{leaf}"),
    ("instance_interactive_conv.dynamic_layer.{leaf}", "dynamic_conv.kernels.{leaf}"),
    ("instance_interactive_conv.norm_in.{leaf}", "dynamic_conv.norm_in.{leaf}"),
    ("instance_interactive_conv.norm_out.{leaf}", "dynamic_conv.norm_out.{leaf}"),
    ("instance_interactive_conv.fc_layer.{leaf}", "dynamic_conv.fc.{leaf}"),
    ("instance_interactive_conv.fc_norm.{leaf}", "dynamic_conv.fc_norm.{leaf}"),
    ("instance_interactive_conv_norm.{leaf}", "dynamic_conv_norm.{leaf}"),
    ("ffn.layers.0.0.{leaf}", "ffn.0.{leaf}"),
    ("ffn.layers.1.{leaf}", "ffn.2.{leaf}"),
    ("ffn_norm.{leaf}", "ffn_norm.{leaf}"),
    ("cls_fcs.{i}.{leaf}", "cls_subnet.{i}.{leaf}"),
    ("reg_fcs.{i}.{leaf}", "bbox_subnet.{i}.{leaf}"),
    ("fc_cls.{leaf}", "cls_score.{leaf}"),
    ("fc_reg.{leaf}", "bbox_pred.{leaf}"),
)


def _rules(names: Collection[str]) -> list[Rule]:
    return [
        *backbone_of_detector(),
        *pyramid(names),
        Rule("rpn_head.init_proposal_bboxes.{leaf}", "proposal_generator.boxes.{leaf}"),
        Rule("rpn_head.init_proposal_features.{leaf}", "proposal_generator.features.{leaf}"),
        *(
            Rule(f"roi_head.bbox_head.{{s}}.{theirs}", f"roi_heads.stages.{{s}}.{ours}")
            for theirs, ours in _PARTS
        ),
    ]


SPARSE_RCNN = Layout(
    name="Sparse R-CNN",
    tree="detection",
    theirs=r"rpn_head\.init_proposal_",
    ours=r"proposal_generator\.(boxes|features)\.",
    example="rpn_head.init_proposal_bboxes.weight",
    rules=_rules,
)
