"""UPerNet, ViT-Adapter-L from DINOv2 weights, ADE20K, 512 px, 160k iterations."""

from ..common.data.ade20k import data, dataloader, num_classes as _num_classes
from ..common.models.upernet import model, task
from ..common.models.vit_adapter_seg import large_dinov2 as _backbone
from ..common.optim import dino_large as optimizer
from ..common.schedule import lr_poly as lr_multiplier
from ..common.testing import windows_512 as test
from ..common.train import train_160k as train
from ..common.weights import dinov2_timm as _weights

model.backbone = _backbone
model.sem_seg_head.main.num_classes = _num_classes
train.vit_checkpoint = _weights
