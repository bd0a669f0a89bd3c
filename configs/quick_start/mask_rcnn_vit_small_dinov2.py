"""Mask R-CNN, plain frozen DINOv2-S, for small custom data (``data.*``)."""

from ..common.models.vit_baseline import vit_small_dinov2 as _backbone
from ..common.optim import pretrained_vit as optimizer
from ..common.quick_start import (
    data,
    dataloader,
    lr_multiplier,
    model,
    task,
    test,
    train,
)
from ..common.weights import dinov2_small as _weights

model.backbone.bottom_up = _backbone
train.vit_checkpoint, train.freeze = _weights, ["bottom_up.vit"]
