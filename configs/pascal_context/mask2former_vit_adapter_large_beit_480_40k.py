"""Mask2Former, ViT-Adapter-L from BEiT weights, PASCAL-Context, 480 px, 40k iterations."""

from ..common.data.pascal_context import data, dataloader, num_classes as _num_classes
from ..common.models.mask2former import large as model, task
from ..common.models.vit_adapter_seg import beit_large as _backbone
from ..common.optim import mask2former_large as optimizer
from ..common.schedule import lr_poly as lr_multiplier
from ..common.testing import beit_480 as test
from ..common.train import train_40k as train
from ..common.weights import beit_large as _weights

model.backbone = _backbone
model.head.transformer_decoder.num_classes = _num_classes
train.vit_checkpoint = _weights
