"""Hybrid Task Cascade with extra attention, as in the published ViT-Adapter detectors (HTC++).

A leaf sets ``model.backbone.bottom_up.bottom_up``. Proposals and the order of the stages are those
of ``cascade_mask_rcnn.py``. Boxes are those of all classes in common, with a smooth L1 loss; each
mask head reads the features of the one before, and all heads those of a semantic branch.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers

from vit_adapter.detection import FullPrecisionPooler
from vit_adapter.detection.htc import (
    ExtraAttention,
    FlowMaskHead,
    FusedSemanticHead,
    HybridTaskCascade,
    HybridTaskCascadeHeads,
)

from .cascade_mask_rcnn import model, task

model._target_ = HybridTaskCascade
model.backbone.bottom_up = L(ExtraAttention)(bottom_up="???", num_heads=32, drop_path_rate=0.3)

model.roi_heads._target_ = HybridTaskCascadeHeads
for _stage in range(3):
    model.roi_heads.assigners[_stage].low_quality = True
    model.roi_heads.box_heads[_stage].conv_norm = ""
    _predictor = model.roi_heads.box_predictors[_stage]
    _predictor._target_ = FastRCNNOutputLayers
    _predictor.cls_agnostic_bbox_reg = True
    _predictor.smooth_l1_beta = 1.0
    _predictor.loss_weight = 1.0
    _predictor.test_score_thresh = 0.001
    model.roi_heads.mask_heads[_stage]._target_ = FlowMaskHead
    model.roi_heads.mask_heads[_stage].has_predecessor = _stage > 0
model.roi_heads.semantic_head = L(FusedSemanticHead)(
    input_shape={
        f"p{level}": L(ShapeSpec)(channels="${.....backbone.out_channels}", stride=2**level)
        for level in range(2, 7)
    },
    num_classes=183,  # of COCO-Stuff's label maps as they are
    fusion_stride=8,
    conv_dim="${...backbone.out_channels}",
)
model.roi_heads.semantic_pooler = L(FullPrecisionPooler)(
    output_size=14, scales=[1 / 8], sampling_ratio=0, pooler_type="ROIAlignV2"
)
