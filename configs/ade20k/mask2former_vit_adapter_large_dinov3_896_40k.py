"""Mask2Former, ViT-Adapter-L on a frozen DINOv3, ADE20K, 896 px, 40k iterations.

The model is that of DINOv3's authors around a smaller ViT. Losses, optimizer and schedule, which
they did not release, are those of the 7B config.
"""

from ..common.data.ade20k_dinov3 import data, dataloader, num_classes as _num_classes
from ..common.models.mask2former import dinov3 as model, task
from ..common.models.vit_adapter_seg import large_dinov3_frozen as _backbone
from ..common.optim import mask2former_dinov2 as optimizer
from ..common.schedule import lr_mask2former as lr_multiplier
from ..common.testing import dinov3_896 as test
from ..common.train import train_40k_clipped as train
from ..common.weights import dinov3_large as _weights

model.backbone, train.vit_checkpoint = _backbone, _weights
model.head.transformer_decoder.num_classes = _num_classes
