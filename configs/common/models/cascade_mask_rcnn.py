"""Cascade Mask R-CNN with FPN, as in the published ViT-Adapter detectors.

A leaf sets ``model.backbone.bottom_up``. Backbone and pyramid are those of ``mask_rcnn.py``. Three
stages refine the boxes; each has a box head with four convolutions, a box for each class, a GIoU
loss, and a mask head of its own. New weights come from Detectron2's initialisers.
"""

from copy import deepcopy as _deepcopy

from detectron2.config import LazyCall as L

from vit_adapter.detection import (
    CascadeMaskHeads,
    GIoUBoxPredictor,
    MaxIoUAssigner,
)

from .mask_rcnn import model

_ious = [0.5, 0.6, 0.7]
_stds = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]
_mask_rcnn = model.roi_heads


def _mask_head():
    head = _deepcopy(_mask_rcnn.mask_head)
    head.input_shape.channels = "${.....backbone.out_channels}"
    head.input_shape.height = head.input_shape.width = "${....mask_pooler.output_size}"
    head.num_classes = "${...num_classes}"
    return head


def _box_head():
    head = _deepcopy(_mask_rcnn.box_head)
    head.input_shape.channels = "${.....backbone.out_channels}"
    head.conv_dims, head.conv_norm, head.fc_dims = [256, 256, 256, 256], "SyncBN", [1024]
    return head


def _box_predictor(stage, stds):
    predictor = _deepcopy(_mask_rcnn.box_predictor)
    del predictor.smooth_l1_beta
    predictor._target_ = GIoUBoxPredictor
    predictor.input_shape.channels = f"${{....box_heads[{stage}].fc_dims[0]}}"
    predictor.num_classes = "${...num_classes}"
    predictor.box2box_transform.weights = [1 / std for std in stds]
    predictor.loss_weight = dict(loss_box_reg=10.0)
    return predictor


model.proposal_generator.anchor_boundary_thresh = 0.0  # anchors that leave the image are ignored
model.proposal_generator.post_nms_topk = [2000, 1000]
model.proposal_generator.smooth_l1_beta = 1 / 9

model.roi_heads = L(CascadeMaskHeads)(
    num_classes=80,
    batch_size_per_image=512,
    positive_fraction=0.25,
    stage_weights=[1.0, 0.5, 0.25],
    assigners=[
        L(MaxIoUAssigner)(positive=iou, negative=iou, min_positive=iou, low_quality=False)
        for iou in _ious
    ],
    box_in_features=_mask_rcnn.box_in_features,
    box_pooler=_mask_rcnn.box_pooler,
    box_heads=[_box_head() for _ in _stds],
    box_predictors=[_box_predictor(stage, stds) for stage, stds in enumerate(_stds)],
    mask_in_features=_mask_rcnn.mask_in_features,
    mask_pooler=_mask_rcnn.mask_pooler,
    mask_heads=[_mask_head() for _ in _stds],
)

task = dict(name="instances", num_classes="model.roi_heads.num_classes")
