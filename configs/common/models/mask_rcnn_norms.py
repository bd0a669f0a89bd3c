"""Mask R-CNN with norms and deeper heads, as in the published detectors from MAE.

A leaf sets ``model.backbone.bottom_up``. What differs from ``mask_rcnn.py``: a norm after each
convolution of the pyramid, the box head and the mask head; two convolutions before the proposals,
and four before the single hidden layer of the box head; training images padded to 1024 x 1024.
"""

from vit_adapter.detection import PaddedRCNN

from .mask_rcnn import model, task

model._target_ = PaddedRCNN
model.train_size = [1024, 1024]
model.proposal_generator.size_divisibility = "${..train_size[0]}"  # anchors in the padding count
model.backbone.norm = "SyncBN"
model.proposal_generator.head.conv_dims = [-1, -1]  # -1: as many channels as the input
model.roi_heads.box_head.conv_dims = [256, 256, 256, 256]
model.roi_heads.box_head.conv_norm = "SyncBN"
model.roi_heads.box_head.fc_dims = [1024]
model.roi_heads.box_predictor.input_shape.channels = "${...box_head.fc_dims[0]}"
model.roi_heads.mask_head.conv_norm = "SyncBN"
