"""Mask R-CNN, ViT-Adapter-T from scratch, for a small data set of one's own (``data.*``)."""

from ..common.models.vit_adapter import tiny_scratch as _backbone
from ..common.quick_start import data, dataloader, lr_multiplier, model, optimizer, task, train

model.backbone.bottom_up = _backbone
