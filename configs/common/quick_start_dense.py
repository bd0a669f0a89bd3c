"""Shared parts of the quick-start ATSS and GFL: as in ``quick_start.py``, without masks.

Pyramid and towers are narrow, and anchors have half the usual size.
"""

from vit_adapter.data import class_names

from .models.dense_detector import atss, gfl, task
from .quick_start import data, dataloader, lr_multiplier, optimizer, test, train

for _model in (atss, gfl):
    _model.backbone.out_channels, _model.backbone.norm = 64, "GN"
    _model.head.conv_dims = [64, 64]
    _model.anchor_generator.sizes = [[32], [64], [128], [256], [512]]  # 4 x stride
    _model.num_classes = len(class_names("shapes_train"))
    _model.test_topk_candidates = 300

dataloader.train.mapper.use_instance_mask = False
