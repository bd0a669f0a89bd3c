"""Sparse R-CNN, ViT-Adapter-S from DeiT weights, COCO 3x with multi-scale training."""

from ..common.data.coco import data, dataloader_boxes_3x as dataloader
from ..common.detector_testing import test
from ..common.models.sparse_rcnn import model, task
from ..common.models.vit_adapter import small as _backbone
from ..common.optim import sparse_rcnn as optimizer
from ..common.schedule import lr_3x as lr_multiplier
from ..common.train import train_3x as train
from ..common.weights import deit_small as _weights

model.backbone.bottom_up = _backbone
train.clip_grad.enabled, train.clip_grad.params.max_norm = True, 1.0
train.vit_checkpoint = _weights
