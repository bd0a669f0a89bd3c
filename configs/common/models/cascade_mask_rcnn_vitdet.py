"""ViTDet's Cascade Mask R-CNN (arXiv 2203.16527), with Detectron2's own proposals and cascade.

A leaf sets ``model.backbone.bottom_up``, a ViT with one output. The pyramid is made from this map.
As in Detectron2's ViTDet: layer norms in pyramid and heads, two convolutions before the proposals,
four in each box head, and boxes of all classes in common. Training images are padded to 1280 x
1280, test images only to multiples of the stride.
"""

from copy import deepcopy as _deepcopy

from detectron2.config import LazyCall as L
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads

from vit_adapter.detection import PaddedRCNN, SimpleFeaturePyramid
from vit_adapter.layers import norm_builder

from .mask_rcnn import model, task

_ious = [0.5, 0.6, 0.7]
_weights = [(10.0, 5.0), (20.0, 10.0), (30.0, 15.0)]
_heads = model.roi_heads


def _box_head():
    head = _deepcopy(_heads.box_head)
    head.input_shape.channels = "${.....backbone.out_channels}"
    head.conv_dims, head.fc_dims = [256, 256, 256, 256], [1024]
    head.conv_norm = L(norm_builder)(norm="LN")
    return head


def _box_predictor(stage, center, size):
    predictor = _deepcopy(_heads.box_predictor)
    predictor.input_shape.channels = f"${{....box_heads[{stage}].fc_dims[0]}}"
    predictor.num_classes = "${...num_classes}"
    predictor.cls_agnostic_bbox_reg = True
    predictor.box2box_transform = L(Box2BoxTransform)(weights=[center, center, size, size])
    return predictor


model._target_ = PaddedRCNN
model.train_size = [1280, 1280]
model.backbone = L(SimpleFeaturePyramid)(
    bottom_up="???", in_feature="res4", out_channels=256, norm="LN"
)
model.proposal_generator._target_ = RPN
model.proposal_generator.anchor_matcher = L(Matcher)(
    thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
)
model.proposal_generator.box2box_transform._target_ = Box2BoxTransform
model.proposal_generator.head.conv_dims = [-1, -1]  # -1: as many channels as the input

model.roi_heads._target_ = CascadeROIHeads
model.roi_heads.mask_head.conv_norm = L(norm_builder)(norm="LN")
model.roi_heads.box_heads = [_box_head() for _ in _ious]
model.roi_heads.box_predictors = [_box_predictor(i, *pair) for i, pair in enumerate(_weights)]
model.roi_heads.proposal_matchers = [
    L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False) for iou in _ious
]
for _name in ("box_head", "box_predictor", "proposal_matcher"):
    del model.roi_heads[_name]
