"""Mask2Former, ViT-Adapter-L from BEiTv2 weights, COCO panoptic, 3x with multi-scale training."""

from ..common.data.coco_panoptic import (
    data,
    dataloader_detr as dataloader,
    num_classes as _num_classes,
    thing_classes as _things,
)
from ..common.models.mask2former import base_panoptic as model, panoptic_task as task
from ..common.models.vit_adapter import large_beit as _backbone
from ..common.optim import mask2former_panoptic_large as optimizer
from ..common.schedule import lr_panoptic_3x as lr_multiplier
from ..common.testing import plain as test
from ..common.train import train_panoptic_3x as train
from ..common.weights import beitv2_large as _weights

model.backbone, train.vit_checkpoint = _backbone, _weights
model.head.transformer_decoder.num_classes, model.thing_classes = _num_classes, _things
