"""Panoptic Mask2Former with a small ViT-Adapter on generated shapes: 9 minutes on two CPU cores."""

from ..common.models.mask2former import panoptic_task as task, tiny_panoptic as model
from ..common.models.vit_adapter import micro_scratch as _backbone
from ..common.quick_start_panoptic import (
    data,
    dataloader_128 as dataloader,
    lr_multiplier,
    num_classes as _num_classes,
    optimizer,
    thing_classes as _things,
    train,
)
from ..common.testing import plain as test

model.backbone, optimizer.lr, optimizer.fused = _backbone, 1e-3, True
model.head.transformer_decoder.num_classes, model.thing_classes = _num_classes, _things
# From nothing, shapes are told apart long after they are found: learn classes at a higher weight.
model.criterion.class_weight, model.criterion.matcher.cost_class = 6.0, 2.0
model.criterion.num_points, train.max_iter, train.seed = 512, 2500, 0
