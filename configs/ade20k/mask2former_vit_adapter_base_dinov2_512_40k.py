"""Mask2Former, ViT-Adapter-B from DINOv2 weights, ADE20K, 512 px, 40k iterations."""

from ..common.data.ade20k import data, dataloader, num_classes as _num_classes
from ..common.models.mask2former import base as model, task
from ..common.models.vit_adapter_seg import base_dinov2 as _backbone
from ..common.optim import mask2former_dinov2 as optimizer
from ..common.schedule import lr_mask2former as lr_multiplier
from ..common.testing import windows_512 as test
from ..common.train import train_40k_clipped as train
from ..common.weights import dinov2_timm as _weights

model.backbone, train.vit_checkpoint = _backbone, _weights
model.head.transformer_decoder.num_classes = _num_classes
