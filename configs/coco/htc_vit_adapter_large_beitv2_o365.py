"""Hybrid Task Cascade, ViT-Adapter-L from BEiT v2 weights, fine-tuned on COCO after Objects365."""

from ..common.data.coco import data, dataloader_htc_o365 as dataloader
from ..common.detector_testing import htc as test
from ..common.models.htc_o365 import model, task
from ..common.models.vit_adapter import large_beit as _backbone
from ..common.optim import layer_decay as optimizer
from ..common.schedule import lr_constant as lr_multiplier
from ..common.train import train_o365 as train
from ..common.weights import beitv2_large as _weights

model.backbone.bottom_up.bottom_up = _backbone
model.backbone.bottom_up.bottom_up.use_checkpoint = True
model.backbone.bottom_up.bottom_up.vit.use_checkpoint = True
model.backbone.bottom_up.bottom_up.vit.drop_path_rate = 0.3
train.vit_checkpoint = _weights
