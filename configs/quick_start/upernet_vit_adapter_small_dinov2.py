"""UPerNet, ViT-Adapter-S on a frozen DINOv2, for small custom data (``data.*``)."""

from ..common.models.upernet import model, task
from ..common.models.vit_adapter_seg import small_dinov2_frozen as _backbone
from ..common.optim import pretrained_vit as optimizer
from ..common.quick_start_semantic import (
    data,
    dataloader,
    lr_multiplier,
    num_classes as _num_classes,
    train,
)
from ..common.testing import whole_images as test
from ..common.weights import dinov2_small as _weights

model.backbone = _backbone
model.sem_seg_head.main.channels = model.sem_seg_head.auxiliary.channels = 128
model.sem_seg_head.main.num_classes, model.sem_seg_head.main.norm = _num_classes, "GN"
train.vit_checkpoint = _weights
