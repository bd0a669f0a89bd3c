"""Cascade Mask R-CNN, plain ViT-B from DeiT weights, COCO 3x with multi-scale training."""

from ..common.data.coco import data, dataloader_3x as dataloader
from ..common.detector_testing import test
from ..common.models.cascade_mask_rcnn import model, task
from ..common.models.vit_baseline import vit_base as _backbone
from ..common.optim import custom_keys as optimizer
from ..common.schedule import lr_3x as lr_multiplier
from ..common.train import train_3x as train
from ..common.weights import deit_base as _weights

model.backbone.bottom_up = _backbone
model.backbone.bottom_up.vit.drop_path_rate = 0.2  # Mask R-CNN has 0.1
train.vit_checkpoint = _weights
