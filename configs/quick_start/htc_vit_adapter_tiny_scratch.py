"""Hybrid Task Cascade, ViT-Adapter-T from scratch, for small custom data (``data.*``)."""

from ..common.models.vit_adapter import tiny_scratch as _backbone
from ..common.quick_start_cascade import (
    data,
    dataloader,
    htc as model,
    lr_multiplier,
    optimizer,
    task,
    test,
    train,
)

model.backbone.bottom_up.bottom_up = _backbone
