"""Mask2Former, ViT-Adapter-g around a fixed DINOv2, ADE20K, 896 px, 80k iterations.

The segmentor of DINOv2's authors, whose repository has no config of it. The optimizer is that of a
config that others derived from theirs; length, crop and tests are the original's at 896 px.
"""

from ..common.data.ade20k import data_896 as data, dataloader, num_classes as _num_classes
from ..common.models.mask2former import dinov2 as model, task
from ..common.models.vit_adapter_seg import giant_dinov2 as _backbone
from ..common.optim import mask2former_dinov2_giant as optimizer
from ..common.schedule import lr_poly as lr_multiplier
from ..common.testing import windows_896 as test
from ..common.train import train_80k as train
from ..common.weights import dinov2_giant as _weights

model.backbone, model.head.transformer_decoder.num_classes = _backbone, _num_classes
train.vit_checkpoint, train.freeze = _weights, ["backbone.vit"]
