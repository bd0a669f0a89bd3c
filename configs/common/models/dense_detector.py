"""ATSS and GFL, as in the published ViT-Adapter detectors.

A leaf sets ``model.backbone.bottom_up``. The output of stride 4 is not used. A leaf leaves it out
of ``out_features``, so that the parts that only this output needs are not trained. New weights of
the pyramid come from Detectron2's initialisers.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN

from vit_adapter.detection import (
    ATSS,
    GFL,
    ATSSHead,
    ClampedBox2BoxTransform,
    GFLHead,
    LastLevelStridedConvs,
)


def _detector(detector, head, **arguments):
    return L(detector)(
        backbone=L(FPN)(
            bottom_up="???",
            in_features=["res3", "res4", "res5"],
            out_channels=256,
            norm="",
            top_block=L(LastLevelStridedConvs)(  # p6 and p7
                in_channels="${..out_channels}", out_channels="${..out_channels}"
            ),
        ),
        head=L(head)(
            in_channels="${..backbone.out_channels}",
            num_classes="${..num_classes}",
            num_levels=5,
            conv_dims=[256, 256, 256, 256],
            norm="GN",
            prior_prob=0.01,
        ),
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[64], [128], [256], [512], [1024]],  # 8 x stride
            aspect_ratios=[1.0],
            strides=[8, 16, 32, 64, 128],
            offset=0.0,
        ),
        num_classes=80,
        match_topk=9,
        box_weight=2.0,
        **arguments,
        test_score_thresh=0.05,
        test_topk_candidates=1000,  # per level
        test_nms_thresh=0.6,
        max_detections_per_image=100,
        input_format="RGB",
        # ImageNet mean and std in RGB, on the 0 to 255 scale
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )


atss = _detector(
    ATSS,
    ATSSHead,
    box2box_transform=L(ClampedBox2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
    focal_loss_alpha=0.25,
    focal_loss_gamma=2.0,
)
gfl = _detector(GFL, GFLHead, quality_beta=2.0, distribution_weight=0.25)
gfl.head.reg_max = 16

task = dict(name="instances", num_classes="model.num_classes")
