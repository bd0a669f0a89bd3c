"""UPerNet with its auxiliary head, as in the published ViT-Adapter segmentors.

A leaf sets ``model.backbone`` and ``model.sem_seg_head.main.num_classes``; the widths of the inputs
follow from the backbone. Models with BEiT-L have ``model.sem_seg_head.main.channels = 1024``.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from vit_adapter.segmentation import FCNHead, HeadWithAuxiliary, PixelSegmentor, UPerNetHead

_strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


def _inputs(*names):
    return {
        name: L(ShapeSpec)(channels="${.....backbone.vit.embed_dim}", stride=_strides[name])
        for name in names
    }


model = L(PixelSegmentor)(
    backbone="???",
    sem_seg_head=L(HeadWithAuxiliary)(
        main=L(UPerNetHead)(
            input_shape=_inputs("res2", "res3", "res4", "res5"),
            channels=512,
            num_classes="???",
            pool_scales=[1, 2, 3, 6],
            norm="SyncBN",
            dropout=0.1,
            loss_weight=1.0,
            loss_average="all",  # "valid": the usual mean over pixels with a class
            ignore_value=255,
        ),
        auxiliary=L(FCNHead)(
            input_shape=_inputs("res4"),
            channels=256,
            num_classes="${..main.num_classes}",
            num_convs=1,
            norm="${..main.norm}",
            dropout="${..main.dropout}",
            loss_weight=0.4,
            loss_average="${..main.loss_average}",
            ignore_value="${..main.ignore_value}",
        ),
    ),
    # ImageNet mean and std in RGB, on the 0 to 255 scale
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)

task = dict(name="semantic", num_classes="model.sem_seg_head.main.num_classes")
