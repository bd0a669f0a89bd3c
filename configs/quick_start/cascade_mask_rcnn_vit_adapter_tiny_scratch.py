"""Cascade Mask R-CNN, ViT-Adapter-T from scratch, for small custom data (``data.*``)."""

from ..common.models.cascade_mask_rcnn import model as _cascade, task
from ..common.models.vit_adapter import tiny_scratch as _backbone
from ..common.quick_start import data, dataloader, lr_multiplier, model, optimizer, test, train

model.backbone.bottom_up = _backbone
for _key in ["anchor_boundary_thresh", "smooth_l1_beta"]:
    model.proposal_generator[_key] = _cascade.proposal_generator[_key]
_cascade.roi_heads.num_classes = model.roi_heads.num_classes
_cascade.roi_heads.batch_size_per_image = model.roi_heads.batch_size_per_image
for _box_head, _mask_head in zip(
    _cascade.roi_heads.box_heads, _cascade.roi_heads.mask_heads, strict=True
):
    _box_head.conv_dims, _box_head.conv_norm, _box_head.fc_dims = [64, 64], "GN", [256]
    _mask_head.conv_dims = model.roi_heads.mask_head.conv_dims
model.roi_heads = _cascade.roi_heads
