"""Mask2Former, ViT-Adapter-H+ on a frozen DINOv3, COCO instance, 640 px, 12 epochs."""

from ..common.data.coco_instance import (
    data,
    dataloader_640 as dataloader,
    num_classes as _num_classes,
)
from ..common.detector_testing import tiles_only as test
from ..common.models.mask2former import base_200_instance as model, instance_task as task
from ..common.models.vit_adapter import huge_plus_dinov3 as _backbone
from ..common.optim import mask2former_dinov2 as optimizer
from ..common.schedule import lr_mask2former as lr_multiplier
from ..common.train import train_12ep as train
from ..common.weights import dinov3_huge_plus as _weights

model.backbone, train.vit_checkpoint = _backbone, _weights
model.head.transformer_decoder.num_classes = _num_classes
