"""Semantic FPN, ViT-Adapter-L from AugReg weights, ADE20K, 512 px, 80k iterations."""

from ..common.data.ade20k import data, dataloader, num_classes as _num_classes
from ..common.models.semantic_fpn import model, task
from ..common.models.vit_adapter_seg import large as _backbone
from ..common.optim import semantic_fpn as optimizer
from ..common.schedule import lr_semantic_fpn as lr_multiplier
from ..common.testing import windows_512 as test
from ..common.train import train_80k as train
from ..common.weights import augreg_large as _weights, augreg_pixel_statistics as _pixels

model.backbone.bottom_up = _backbone
model.sem_seg_head.num_classes = _num_classes
model.pixel_mean = model.pixel_std = _pixels
train.vit_checkpoint = _weights
