"""Mask2Former for instances, plain frozen DINOv2-S, for custom data (``data.*``)."""

from ..common.detector_testing import tiles_only as test
from ..common.models.mask2former import instance_task as task, tiny_instance as model
from ..common.models.vit_baseline import vit_small_dinov2 as _backbone
from ..common.optim import pretrained_vit as optimizer
from ..common.quick_start import (
    data,
    dataloader,
    lr_multiplier,
    model as _mask_rcnn,
    train,
)
from ..common.weights import dinov2_small as _weights

model.backbone = _backbone
model.head.transformer_decoder.num_queries = 100
model.head.transformer_decoder.num_classes = _mask_rcnn.roi_heads.num_classes
dataloader.train.mapper.image_format = dataloader.test.mapper.image_format = "RGB"
train.vit_checkpoint, train.freeze = _weights, ["backbone.vit"]
