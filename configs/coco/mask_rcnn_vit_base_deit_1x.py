"""Mask R-CNN, plain ViT-B from DeiT weights, COCO 1x."""

from ..common.data.coco import data, dataloader_1x as dataloader
from ..common.detector_testing import test
from ..common.models.mask_rcnn import model, task
from ..common.models.vit_baseline import vit_base as _backbone
from ..common.optim import custom_keys as optimizer
from ..common.schedule import lr_1x as lr_multiplier
from ..common.train import train_1x as train
from ..common.weights import deit_base as _weights

model.backbone.bottom_up = _backbone
train.vit_checkpoint = _weights
