"""Semantic FPN, ViT-Adapter-H+ on a frozen DINOv3, ADE20K, 512 px, 80k iterations."""

from ..common.data.ade20k import data, dataloader, num_classes as _num_classes
from ..common.models.semantic_fpn import model, task
from ..common.models.vit_adapter_seg import huge_plus_dinov3 as _backbone
from ..common.optim import layer_decay as optimizer
from ..common.schedule import lr_poly as lr_multiplier
from ..common.testing import windows_512 as test
from ..common.train import train_80k as train
from ..common.weights import dinov3_huge_plus as _weights

model.backbone.bottom_up = _backbone
model.sem_seg_head.num_classes = _num_classes
train.vit_checkpoint = _weights
