"""Mask R-CNN with norms, plain ViT-B from MAE weights, COCO, large-scale jitter, 25 epochs."""

from ..common.data.coco import data, dataloader_lsj as dataloader
from ..common.detector_testing import test
from ..common.models.mask_rcnn_norms import model, task
from ..common.models.vit_baseline import vit_base_mae as _backbone
from ..common.optim import custom_keys as optimizer
from ..common.schedule import lr_25ep as lr_multiplier
from ..common.train import train_25ep as train
from ..common.weights import mae_base as _weights

model.backbone.bottom_up = _backbone
train.vit_checkpoint = _weights
