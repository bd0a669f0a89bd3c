"""Mask R-CNN with a small ViT-Adapter on generated shapes: a few minutes on two CPU cores."""

from ..common.models.vit_adapter import micro_scratch as _backbone
from ..common.quick_start import data, dataloader, model, optimizer, task, test, train
from ..common.schedule import lr_poly as lr_multiplier

model.backbone.bottom_up = _backbone
model.backbone.norm = "BN"  # the images are similar, so its statistics also fit at test time
# Many regions per image, each at little cost: bins are sampled once, masks are 14x14 pixels.
model.roi_heads.batch_size_per_image = 64
model.roi_heads.box_pooler.sampling_ratio = model.roi_heads.mask_pooler.sampling_ratio = 1
model.roi_heads.mask_pooler.output_size = 7
dataloader.train.mapper.augmentations.short_edges = [128]  # the size of the images
dataloader.test.mapper.augmentations.short_edges, test.augmentation.scales = [128], [96, 128, 160]
dataloader.train.total_batch_size = train.base_batch_size = 4
optimizer.lr, optimizer.fused = 2e-3, True  # one pass over all parameters
lr_multiplier.warmup_iters, lr_multiplier.warmup_factor = 50, 0.001
train.max_iter, train.seed = 750, 0
