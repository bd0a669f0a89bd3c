"""Panoptic Mask2Former, plain frozen DINOv2-S, for custom data (``data.*``)."""

from ..common.models.mask2former import panoptic_task as task, tiny_panoptic as model
from ..common.models.vit_baseline import vit_small_dinov2 as _backbone
from ..common.optim import pretrained_vit as optimizer
from ..common.quick_start_panoptic import (
    data,
    dataloader,
    lr_multiplier,
    num_classes as _num_classes,
    thing_classes as _things,
    train,
)
from ..common.testing import plain as test
from ..common.weights import dinov2_small as _weights

model.backbone = _backbone
model.head.transformer_decoder.num_queries = 100
model.head.transformer_decoder.num_classes, model.thing_classes = _num_classes, _things
train.vit_checkpoint, train.freeze = _weights, ["backbone.vit"]
