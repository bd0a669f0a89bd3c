"""ATSS, ViT-Adapter-T from scratch, for small custom data (``data.*``)."""

from ..common.models.vit_adapter import tiny_scratch as _backbone
from ..common.quick_start_dense import (
    atss as model,
    data,
    dataloader,
    lr_multiplier,
    optimizer,
    task,
    test,
    train,
)

model.backbone.bottom_up = _backbone
model.backbone.bottom_up.out_features = "${..in_features}"
