"""Mask R-CNN with FPN, as in the published ViT-Adapter detectors.

A leaf sets ``model.backbone.bottom_up``. Backbone, heads and losses are Detectron2's own; the parts
that choose what they learn are the original's. The input is RGB, divided by the ImageNet std. New
weights of pyramid and heads come from Detectron2's initialisers.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
)

from vit_adapter.detection import (
    AssigningROIHeads,
    ClampedBox2BoxTransform,
    FullPrecisionPooler,
    InsideAnchorsRPN,
    MaxIoUAssigner,
    TwoStageDetector,
)

_pyramid_scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]  # p2 to p5

model = L(TwoStageDetector)(
    backbone=L(FPN)(
        bottom_up="???",
        in_features=["res2", "res3", "res4", "res5"],
        out_channels=256,
        norm="",
        top_block=L(LastLevelMaxPool)(),  # p6: every second pixel of p5
    ),
    proposal_generator=L(InsideAnchorsRPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(StandardRPNHead)(in_channels="${...backbone.out_channels}", num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32], [64], [128], [256], [512]],  # 8 x stride
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(MaxIoUAssigner)(
            positive=0.7, negative=0.3, min_positive=0.3, low_quality=True
        ),
        anchor_boundary_thresh=-1.0,  # anchors whose centres lie in the padded image
        box2box_transform=L(ClampedBox2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=[2000, 1000],  # per level; training, test
        post_nms_topk=[1000, 1000],
        nms_thresh=0.7,
        smooth_l1_beta=0.0,  # plain L1
    ),
    roi_heads=L(AssigningROIHeads)(
        num_classes=80,
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(MaxIoUAssigner)(
            positive=0.5, negative=0.5, min_positive=0.5, low_quality=True
        ),
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=L(FullPrecisionPooler)(
            output_size=7, scales=_pyramid_scales, sampling_ratio=0, pooler_type="ROIAlignV2"
        ),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(channels="${....backbone.out_channels}", height=7, width=7),
            conv_dims=[],
            fc_dims=[1024, 1024],
        ),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=L(ShapeSpec)(channels="${...box_head.fc_dims[1]}"),
            num_classes="${..num_classes}",
            cls_agnostic_bbox_reg=False,
            box2box_transform=L(ClampedBox2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
            smooth_l1_beta=0.0,  # plain L1
            test_score_thresh=0.05,
            test_nms_thresh=0.5,
            test_topk_per_image=100,
        ),
        mask_in_features=["p2", "p3", "p4", "p5"],
        mask_pooler=L(FullPrecisionPooler)(
            output_size=14, scales=_pyramid_scales, sampling_ratio=0, pooler_type="ROIAlignV2"
        ),
        mask_head=L(MaskRCNNConvUpsampleHead)(
            input_shape=L(ShapeSpec)(
                channels="${....backbone.out_channels}",
                height="${...mask_pooler.output_size}",
                width="${...mask_pooler.output_size}",
            ),
            num_classes="${..num_classes}",
            conv_dims=[256, 256, 256, 256, 256],  # four 3x3 convolutions and the 2x2 upsampling
        ),
    ),
    input_format="RGB",
    # ImageNet mean and std in RGB, on the 0 to 255 scale
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)

task = dict(name="instances", num_classes="model.roi_heads.num_classes")
