"""Mask2Former, ViT-Adapter-L from AugReg weights, ADE20K, 640 px, 160k iterations."""

from ..common.data.ade20k import data_640 as data, dataloader, num_classes as _num_classes
from ..common.models.mask2former import large as model, task
from ..common.models.vit_adapter_seg import large as _backbone
from ..common.optim import mask2former_large as optimizer
from ..common.schedule import lr_poly as lr_multiplier
from ..common.testing import windows_640 as test
from ..common.train import train_160k as train
from ..common.weights import augreg_large as _weights, augreg_pixel_statistics as _pixels

model.pixel_mean = model.pixel_std = _pixels
model.backbone, train.vit_checkpoint = _backbone, _weights
model.head.transformer_decoder.num_classes = _num_classes
