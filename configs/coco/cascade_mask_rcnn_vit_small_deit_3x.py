"""Cascade Mask R-CNN, plain ViT-S from DeiT weights, COCO 3x with multi-scale training."""

from ..common.data.coco import data, dataloader_3x as dataloader
from ..common.detector_testing import test
from ..common.models.cascade_mask_rcnn import model, task
from ..common.models.vit_baseline import vit_small as _backbone
from ..common.optim import custom_keys as optimizer
from ..common.schedule import lr_3x as lr_multiplier
from ..common.train import train_3x as train
from ..common.weights import deit_small as _weights

model.backbone.bottom_up = _backbone
train.vit_checkpoint = _weights
