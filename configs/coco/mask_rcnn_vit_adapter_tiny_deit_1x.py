"""Mask R-CNN, ViT-Adapter-T from DeiT weights, COCO 1x."""

from ..common.data.coco import data, dataloader_1x as dataloader
from ..common.detector_testing import test
from ..common.models.mask_rcnn import model, task
from ..common.models.vit_adapter import tiny as _backbone
from ..common.optim import custom_keys as optimizer
from ..common.schedule import lr_1x as lr_multiplier
from ..common.train import train_1x as train
from ..common.weights import deit_tiny as _weights

model.backbone.bottom_up = _backbone
train.vit_checkpoint = _weights
optimizer.lr, optimizer.weight_decay = 2e-4, 0.01  # only for this model
