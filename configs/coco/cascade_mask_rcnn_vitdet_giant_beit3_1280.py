"""ViTDet's Cascade Mask R-CNN, plain ViT-g from BEiT-3 weights, COCO, 1280 px, 75 epochs."""

from ..common.data.coco import data, dataloader_lsj_1280 as dataloader
from ..common.detector_testing import soft_nms as test
from ..common.models.cascade_mask_rcnn_vitdet import model, task
from ..common.models.vit_baseline import single_scale_giant_beit3 as _backbone
from ..common.optim import vitdet_giant as optimizer
from ..common.schedule import lr_vitdet as lr_multiplier
from ..common.train import train_vitdet as train
from ..common.weights import beit3_giant as _weights

model.backbone.bottom_up = _backbone
train.vit_checkpoint = _weights
