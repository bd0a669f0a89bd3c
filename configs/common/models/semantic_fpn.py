"""Semantic FPN, as in the published ViT-Adapter segmentors.

A leaf sets ``model.backbone.bottom_up`` and ``model.sem_seg_head.num_classes``. The pyramid is
Detectron2's own.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN

from vit_adapter.segmentation import PixelSegmentor, SemanticFPNHead

_strides = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}

model = L(PixelSegmentor)(
    backbone=L(FPN)(
        bottom_up="???",
        in_features=["res2", "res3", "res4", "res5"],
        out_channels=256,
        norm="",
    ),
    sem_seg_head=L(SemanticFPNHead)(
        input_shape={
            name: L(ShapeSpec)(channels="${....backbone.out_channels}", stride=stride)
            for name, stride in _strides.items()
        },
        num_classes="???",
        conv_dims=128,
        common_stride=4,
        norm="SyncBN",
        dropout=0.1,
        loss_weight=1.0,
        loss_average="all",  # "valid": the usual mean over pixels with a class
        ignore_value=255,
    ),
    # ImageNet mean and std in RGB, on the 0 to 255 scale
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)

task = dict(name="semantic", num_classes="model.sem_seg_head.num_classes")
