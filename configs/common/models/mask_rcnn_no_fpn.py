"""Mask R-CNN on the backbone's own pyramid: 1x1 convolutions and a ReLU in place of FPN."""

from copy import deepcopy as _deepcopy

from detectron2.config import LazyCall as L

from vit_adapter.detection import ChannelMapper

from .mask_rcnn import model as _with_fpn, task

model = _deepcopy(_with_fpn)
model.backbone = L(ChannelMapper)(
    bottom_up="???",
    in_features=["res2", "res3", "res4", "res5"],
    out_channels=256,
)
