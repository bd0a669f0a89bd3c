"""Mask2Former, ViT-Adapter-L from DINOv3 weights, COCO panoptic, 640 px, 12 epochs."""

from ..common.data.coco_panoptic import (
    data,
    dataloader_640 as dataloader,
    num_classes as _num_classes,
    thing_classes as _things,
)
from ..common.models.mask2former import base_200_panoptic as model, panoptic_task as task
from ..common.models.vit_adapter import large_dinov3 as _backbone
from ..common.optim import mask2former_dinov2 as optimizer
from ..common.schedule import lr_mask2former as lr_multiplier
from ..common.testing import plain as test
from ..common.train import train_12ep as train
from ..common.weights import dinov3_large as _weights

model.backbone, train.vit_checkpoint = _backbone, _weights
model.head.transformer_decoder.num_classes, model.thing_classes = _num_classes, _things
