"""Sparse R-CNN, as in the published ViT-Adapter detector.

A leaf sets ``model.backbone.bottom_up``. Backbone and pyramid are those of ``mask_rcnn.py``,
without p6. Six stages refine 300 learned proposals. New weights of the pyramid come from
Detectron2's initialisers. Unlike in the original, detections are clipped to the image, as
Detectron2 does for all detectors.
"""

from detectron2.config import LazyCall as L

from vit_adapter.detection import (
    ClampedBox2BoxTransform,
    InteractionStage,
    LearnedProposals,
    ProposalCriterion,
    ProposalMatcher,
    SparseHeads,
)

from .mask_rcnn import model

_box_pooler = model.roi_heads.box_pooler
_box_pooler.sampling_ratio = 2


def _stage():
    return L(InteractionStage)(
        channels="${....backbone.out_channels}",
        num_classes="${...num_classes}",
        pool_size="${...box_pooler.output_size}",
        num_heads=8,
        dynamic_channels=64,
        ffn_channels=2048,
        num_cls_layers=1,
        num_box_layers=3,
        prior_prob=0.01,
    )


model.backbone.top_block = None
model.proposal_generator = L(LearnedProposals)(
    num_proposals=300, channels="${..backbone.out_channels}"
)
model.roi_heads = L(SparseHeads)(
    num_classes=80,
    in_features=model.roi_heads.box_in_features,
    box_pooler=_box_pooler,
    stages=[_stage() for _ in range(6)],
    box2box_transform=L(ClampedBox2BoxTransform)(weights=[2.0, 2.0, 1.0, 1.0]),
    criterion=L(ProposalCriterion)(
        matcher=L(ProposalMatcher)(cost_class=2.0, cost_l1=5.0, cost_giou=2.0),
        class_weight=2.0,
        l1_weight=5.0,
        giou_weight=2.0,
    ),
    test_topk_per_image="${..proposal_generator.num_proposals}",
)

task = dict(name="instances", num_classes="model.roi_heads.num_classes")
