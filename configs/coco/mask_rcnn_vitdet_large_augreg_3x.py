"""Mask R-CNN, ViTDet-L from AugReg weights, COCO 3x with multi-scale training."""

from ..common.data.coco import data, dataloader_3x as dataloader
from ..common.detector_testing import test
from ..common.models.mask_rcnn import model, task
from ..common.models.vit_baseline import vitdet_large as _backbone
from ..common.optim import layer_decay as optimizer
from ..common.schedule import lr_3x as lr_multiplier
from ..common.train import train_3x as train
from ..common.weights import augreg_large as _weights, augreg_pixel_statistics as _pixels

model.backbone.bottom_up = _backbone
model.pixel_mean = model.pixel_std = _pixels
train.vit_checkpoint = _weights
