"""Hybrid Task Cascade, ViT-Adapter-L from BEiT weights, COCO 3x with multi-scale training."""

from ..common.data.coco import data, dataloader_htc as dataloader
from ..common.detector_testing import htc as test
from ..common.models.htc import model, task
from ..common.models.vit_adapter import large_beit as _backbone
from ..common.optim import htc_large as optimizer
from ..common.schedule import lr_3x as lr_multiplier
from ..common.train import train_3x as train
from ..common.weights import beit_large as _weights

model.backbone.bottom_up.bottom_up = _backbone
train.vit_checkpoint = _weights
