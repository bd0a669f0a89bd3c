"""Hybrid Task Cascade, ViT-Adapter-L from AugReg weights, COCO 3x with multi-scale training."""

from ..common.data.coco import data, dataloader_htc as dataloader
from ..common.detector_testing import htc_augreg as test
from ..common.models.htc import model, task
from ..common.models.vit_adapter import large as _backbone
from ..common.optim import htc_large as optimizer
from ..common.schedule import lr_3x as lr_multiplier
from ..common.train import train_3x as train
from ..common.weights import augreg_large as _weights

model.backbone.bottom_up.bottom_up = _backbone
model.backbone.bottom_up.drop_path_rate = 0.4
model.backbone.bottom_up.bottom_up.use_checkpoint = True
model.backbone.bottom_up.bottom_up.vit.use_checkpoint = True
model.roi_heads.box_predictors[2].test_topk_per_image = 300
train.vit_checkpoint = _weights
