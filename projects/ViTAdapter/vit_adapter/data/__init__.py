"""Data sets, augmentations and checks; importing it registers the project's data sets by name."""

from vit_adapter.data.checks import (
    check_has_objects,
    check_mask_format,
    check_num_classes,
    check_same_classes,
    class_names,
)
from vit_adapter.data.image_io import read_image
from vit_adapter.data.instances.augmentation import (
    coco_1x_train,
    coco_3x_train,
    coco_htc_train,
    coco_lsj_train,
    coco_panoptic_train,
    coco_test,
    flip_and_resize,
    large_scale_jitter,
    resize,
)
from vit_adapter.data.instances.coco_format import register_coco_format
from vit_adapter.data.instances.jitter import InstanceJitter
from vit_adapter.data.instances.label_maps import instances_with_label_maps
from vit_adapter.data.instances.mapper import CheckedDatasetMapper
from vit_adapter.data.instances.semantic_mapper import InstanceSemanticMapper
from vit_adapter.data.loader import TrainLoader
from vit_adapter.data.panoptic.classes import thing_ids
from vit_adapter.data.panoptic.mapper import PanopticMapper
from vit_adapter.data.panoptic.own_files import register_panoptic_format
from vit_adapter.data.panoptic.sets.catalog import register_panoptic_sets
from vit_adapter.data.semantic.augmentation import semantic_test, semantic_train
from vit_adapter.data.semantic.mapper import SemanticMapper
from vit_adapter.data.semantic.sets import register_semantic_sets, semantic_dataset_dicts
from vit_adapter.data.shapes.catalog import generate_shapes, register_shapes

__all__ = [
    "CheckedDatasetMapper",
    "InstanceJitter",
    "InstanceSemanticMapper",
    "PanopticMapper",
    "SemanticMapper",
    "TrainLoader",
    "check_has_objects",
    "check_mask_format",
    "check_num_classes",
    "check_same_classes",
    "class_names",
    "coco_1x_train",
    "coco_3x_train",
    "coco_htc_train",
    "coco_lsj_train",
    "coco_panoptic_train",
    "coco_test",
    "flip_and_resize",
    "generate_shapes",
    "instances_with_label_maps",
    "large_scale_jitter",
    "read_image",
    "register_coco_format",
    "register_panoptic_format",
    "register_panoptic_sets",
    "register_semantic_sets",
    "register_shapes",
    "resize",
    "semantic_dataset_dicts",
    "semantic_test",
    "semantic_train",
    "thing_ids",
]

register_semantic_sets()
register_panoptic_sets()
register_shapes()
