"""Shared parts of the quick-start cascades: as in ``quick_start.py``, with three narrow stages.

The Hybrid Task Cascade has no semantic branch, which would need label maps beside the instances.
"""

from copy import deepcopy as _deepcopy

from .models.cascade_mask_rcnn import model as _cascade, task
from .models.htc import model as _htc
from .quick_start import (
    data,
    dataloader,
    lr_multiplier,
    model as _mask_rcnn,
    optimizer,
    test,
    train,
)


def _narrow(heads):
    like = _mask_rcnn.roi_heads
    heads.num_classes, heads.batch_size_per_image = like.num_classes, like.batch_size_per_image
    for box_head, mask_head in zip(heads.box_heads, heads.mask_heads, strict=True):
        box_head.conv_dims, box_head.conv_norm, box_head.fc_dims = [64, 64], "GN", [256]
        mask_head.conv_dims = like.mask_head.conv_dims
    for predictor in heads.box_predictors:
        predictor.test_score_thresh = like.box_predictor.test_score_thresh
    return heads


cascade = _deepcopy(_mask_rcnn)
cascade.roi_heads = _narrow(_cascade.roi_heads)
for _key in ["anchor_boundary_thresh", "smooth_l1_beta"]:
    cascade.proposal_generator[_key] = _cascade.proposal_generator[_key]

htc = _deepcopy(cascade)
htc._target_ = _htc._target_
htc.backbone.bottom_up = _htc.backbone.bottom_up
htc.backbone.bottom_up.num_heads, htc.backbone.bottom_up.drop_path_rate = 6, 0.0
htc.roi_heads = _narrow(_htc.roi_heads)
htc.roi_heads.semantic_head = htc.roi_heads.semantic_pooler = None
