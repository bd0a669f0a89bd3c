"""ATSS, ViT-Adapter-S on a frozen DINOv2, for small custom data (``data.*``)."""

from ..common.models.vit_adapter import small_dinov2_frozen as _backbone
from ..common.optim import pretrained_vit as optimizer
from ..common.quick_start_dense import (
    atss as model,
    data,
    dataloader,
    lr_multiplier,
    task,
    test,
    train,
)
from ..common.weights import dinov2_small as _weights

model.backbone.bottom_up = _backbone
model.backbone.bottom_up.out_features = "${..in_features}"
train.vit_checkpoint = _weights
