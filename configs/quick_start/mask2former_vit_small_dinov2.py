"""Mask2Former, plain frozen DINOv2-S, for small custom data (``data.*``)."""

from ..common.models.mask2former import task, tiny as model
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

model.backbone = _backbone
model.head.transformer_decoder.num_classes = _num_classes
train.vit_checkpoint, train.freeze = _weights, ["backbone.vit"]
