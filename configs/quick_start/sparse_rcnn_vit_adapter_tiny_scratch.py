"""Sparse R-CNN, ViT-Adapter-T from scratch, for small custom data (``data.*``)."""

from ..common.models.sparse_rcnn import model as _sparse, task
from ..common.models.vit_adapter import tiny_scratch as _backbone
from ..common.optim import sparse_rcnn as optimizer
from ..common.quick_start import data, dataloader, lr_multiplier, model, test, train

model.backbone.bottom_up, model.backbone.top_block = _backbone, None
_sparse.proposal_generator.num_proposals = 50
_sparse.roi_heads.num_classes = model.roi_heads.num_classes
_sparse.roi_heads.stages = _sparse.roi_heads.stages[:3]
for _stage in _sparse.roi_heads.stages:
    _stage.dynamic_channels, _stage.ffn_channels = 16, 256
model.proposal_generator, model.roi_heads = _sparse.proposal_generator, _sparse.roi_heads
dataloader.train.mapper.use_instance_mask = False
optimizer.lr = 5e-4
train.clip_grad.enabled, train.clip_grad.params.max_norm = True, 1.0
