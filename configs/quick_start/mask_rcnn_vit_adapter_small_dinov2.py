"""Mask R-CNN, ViT-Adapter-S on a frozen DINOv2, for small custom data (``data.*``)."""

from ..common.models.vit_adapter import small_dinov2_frozen as _backbone
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
train.vit_checkpoint = _weights
