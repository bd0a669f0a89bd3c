"""Mask R-CNN with a small ViT-Adapter on generated shapes: some minutes on two CPU cores."""

from ..common.models.vit_adapter import micro_scratch as _backbone
from ..common.quick_start import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = _backbone
model.backbone.norm = "BN"  # the images are alike: what it learns holds at test time
dataloader.train.mapper.augmentations.short_edges = [128]  # the size of the images
dataloader.test.mapper.augmentations.short_edges = [128]
dataloader.train.total_batch_size = train.base_batch_size = 8
optimizer.lr = 1e-3
train.max_iter, train.seed = 800, 0
