"""Mask R-CNN, ViT-Adapter-L from DINOv2 weights, COCO 3x with multi-scale training.

The published model was trained with mean and std 127.5, and tested with those of ImageNet, which
are used here. To train in the same way: ``model.pixel_mean=[127.5,127.5,127.5]
model.pixel_std=[127.5,127.5,127.5]``.
"""

from ..common.data.coco import data, dataloader_3x as dataloader
from ..common.detector_testing import test
from ..common.models.mask_rcnn import model, task
from ..common.models.vit_adapter import large_dinov2 as _backbone
from ..common.optim import dino_large as optimizer
from ..common.schedule import lr_3x as lr_multiplier
from ..common.train import train_3x as train
from ..common.weights import dinov2_large as _weights

model.backbone.bottom_up = _backbone
train.vit_checkpoint = _weights
