"""Semantic FPN, plain frozen DINOv2-S, for small custom data (``data.*``)."""

from ..common.models.semantic_fpn import model, task
from ..common.models.vit_baseline_seg import vit_small_dinov2 as _backbone
from ..common.optim import pretrained_vit as optimizer
from ..common.quick_start_semantic import (
    data,
    dataloader,
    lr_multiplier,
    num_classes as _num_classes,
    train,
)
from ..common.testing import whole_images as test
from ..common.weights import dinov2_small as _weights

model.backbone.bottom_up = _backbone
model.backbone.out_channels, model.backbone.norm = 64, "GN"
model.sem_seg_head.num_classes, model.sem_seg_head.norm = _num_classes, "GN"
model.sem_seg_head.conv_dims = 64
train.vit_checkpoint, train.freeze = _weights, ["bottom_up.vit"]
