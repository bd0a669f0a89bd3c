"""COCO instance segmentation for Mask2Former, with large-scale jitter.

Training images become squares of 1024 or 640 pixels. Test images are resized to 800/1333, or to fit
into 640 x 640.
"""

from copy import deepcopy as _deepcopy

from detectron2.config import LazyCall as L

from vit_adapter.data import class_names, large_scale_jitter, resize

from .coco import data, dataloader_1x as _dataloader

num_classes = len(class_names("coco_2017_train"))


def _jittered(image_size):
    dataloader = _deepcopy(_dataloader)
    mapper = dataloader["train"].mapper
    mapper.augmentations = L(large_scale_jitter)(image_size=image_size)
    mapper.instance_mask_format = "bitmask"
    mapper.image_format = dataloader["test"].mapper.image_format = "RGB"
    dataloader["train"].aspect_ratio_grouping = False  # all images become squares
    return dataloader


dataloader_1024, dataloader_640 = _jittered(1024), _jittered(640)
dataloader_640["test"].mapper.augmentations = L(resize)(short_edges=[640], max_size=640)
