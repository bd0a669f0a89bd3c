"""UPerNet, ViT-Adapter-L from BEiT weights, ADE20K, 640 px, 160k iterations."""

from ..common.data.ade20k import data_640 as data, dataloader, num_classes as _num_classes
from ..common.models.upernet import model, task
from ..common.models.vit_adapter_seg import beit_large as _backbone
from ..common.optim import seg_beit_large as optimizer
from ..common.schedule import lr_poly as lr_multiplier
from ..common.testing import beit_640 as test
from ..common.train import train_160k as train
from ..common.weights import beit_large as _weights

model.backbone, model.sem_seg_head.main.channels = _backbone, 1024
model.sem_seg_head.main.num_classes = _num_classes
train.vit_checkpoint = _weights
