"""Data sets, augmentations and checks; importing it registers the generated shapes by name."""

from .augmentation import coco_1x_train, coco_3x_train, coco_test, flip_and_resize, resize
from .checks import check_mask_format, check_num_classes, check_same_classes, class_names
from .coco_format import register_coco_format
from .image_io import read_image
from .mapper import CheckedDatasetMapper
from .shapes import generate_shapes, register_shapes

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
