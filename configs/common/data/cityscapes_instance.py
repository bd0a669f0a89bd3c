"""Cityscapes instance segmentation, 8 classes: large-scale jitter, tested at the stored size.

Reading its polygons needs the packages cityscapesscripts and shapely. Box and mask AP are those of
COCO.
"""

from copy import deepcopy as _deepcopy

from vit_adapter.data import class_names

from .coco_instance import data, dataloader_1024 as _dataloader

dataloader = _deepcopy(_dataloader)
dataloader["train"].dataset.names = "cityscapes_fine_instance_seg_train"
dataloader["test"].dataset.names = "cityscapes_fine_instance_seg_val"
dataloader["test"].mapper.augmentations = []
num_classes = len(class_names("cityscapes_fine_instance_seg_train"))
