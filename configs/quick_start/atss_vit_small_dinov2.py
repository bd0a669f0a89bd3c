"""ATSS, plain frozen DINOv2-S, for small custom data (``data.*``)."""

from ..common.models.vit_baseline import vit_small_dinov2 as _backbone
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
train.vit_checkpoint, train.freeze = _weights, ["bottom_up.vit"]
