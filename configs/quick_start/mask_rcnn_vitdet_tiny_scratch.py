"""Mask R-CNN, ViTDet-T from scratch, for small custom data (``data.*``)."""

from ..common.models.vit_baseline import vitdet_tiny_scratch as _backbone
from ..common.quick_start import (
    data,
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    task,
    test,
    train,
)

model.backbone.bottom_up = _backbone
