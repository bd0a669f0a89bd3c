"""Mask2Former, ViT-Adapter-L from BEiTv2 weights, ADE20K, 896 px, 80k iterations.

The published 61.2 mIoU "at a single scale" includes a flip: ``test.multi_scale.enabled=True
test.multi_scale.scales=[1.0]``.
"""

from ..common.data.ade20k import data_896 as data, dataloader, num_classes as _num_classes
from ..common.models.mask2former import large as model, task
from ..common.models.vit_adapter_seg import beit_large as _backbone
from ..common.optim import mask2former_large as optimizer
from ..common.schedule import lr_poly as lr_multiplier
from ..common.testing import beitv2_896_padded as test
from ..common.train import train_80k as train
from ..common.weights import beitv2_large as _weights

model.backbone, model.head.transformer_decoder.num_classes = _backbone, _num_classes
model.head.transformer_decoder.num_queries = 200
train.vit_checkpoint = _weights
