"""Data sets, augmentations and checks; importing it registers the generated shapes by name."""

from vit_adapter.data.augmentation import (
    coco_1x_train,
    coco_3x_train,
    coco_test,
    flip_and_resize,
    resize,
)
from vit_adapter.data.checks import (
    check_mask_format,
    check_num_classes,
    check_same_classes,
    class_names,
)
from vit_adapter.data.coco_format import register_coco_format
from vit_adapter.data.image_io import read_image
from vit_adapter.data.mapper import CheckedDatasetMapper
from vit_adapter.data.shapes import generate_shapes, register_shapes

__all__ = [
    "CheckedDatasetMapper",
    "check_mask_format",
    "check_num_classes",
    "check_same_classes",
    "class_names",
    "coco_1x_train",
    "coco_3x_train",
    "coco_test",
    "flip_and_resize",
    "generate_shapes",
    "read_image",
    "register_coco_format",
    "register_shapes",
    "resize",
]

register_shapes()
