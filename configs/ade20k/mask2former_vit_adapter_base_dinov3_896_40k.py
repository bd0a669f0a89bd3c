"""Mask2Former, ViT-Adapter-B on a frozen DINOv3, ADE20K, 896 px, 40k iterations.

DINOv3's segmentor with a smaller head, 256 wide. Losses, optimizer and schedule, which its authors
did not release, are those of the 7B config.
"""

from ..common.data.ade20k_dinov3 import data, dataloader, num_classes as _num_classes
from ..common.models.mask2former import base_dinov3 as model, task
from ..common.models.vit_adapter_seg import base_dinov3_frozen as _backbone
from ..common.optim import mask2former_dinov2 as optimizer
from ..common.schedule import lr_mask2former as lr_multiplier
from ..common.testing import dinov3_896 as test
from ..common.train import train_40k_clipped as train
from ..common.weights import dinov3_base as _weights

model.backbone, train.vit_checkpoint = _backbone, _weights
model.head.transformer_decoder.num_classes = _num_classes
