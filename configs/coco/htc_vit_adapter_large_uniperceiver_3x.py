"""Hybrid Task Cascade, ViT-Adapter-L from Uni-Perceiver weights, COCO 3x, multi-scale."""

from ..common.data.coco import data, dataloader_htc as dataloader
from ..common.detector_testing import htc as test
from ..common.models.htc import model, task
from ..common.models.vit_adapter import large_uniperceiver as _backbone
from ..common.optim import htc_large as optimizer
from ..common.schedule import lr_3x as lr_multiplier
from ..common.train import train_3x as train
from ..common.weights import uniperceiver_large as _weights

model.backbone.bottom_up.bottom_up = _backbone
model.backbone.bottom_up.drop_path_rate = 0.4
train.vit_checkpoint = _weights
