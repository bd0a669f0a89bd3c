"""ATSS, ViT-Adapter-B from DINOv3 weights, COCO 3x with multi-scale training."""

from ..common.data.coco import data, dataloader_boxes_3x as dataloader
from ..common.detector_testing import test
from ..common.models.dense_detector import atss as model, task
from ..common.models.vit_adapter import base_dinov3 as _backbone
from ..common.optim import dino_base as optimizer
from ..common.schedule import lr_3x as lr_multiplier
from ..common.train import train_3x as train
from ..common.weights import dinov3_base as _weights

model.backbone.bottom_up = _backbone
model.backbone.bottom_up.out_features = "${..in_features}"
train.vit_checkpoint = _weights
