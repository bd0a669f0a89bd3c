"""Mapillary Vistas: its own 65 classes, or the 19 of Cityscapes; crops of 896 pixels.

The original trains on Mapillary before Cityscapes: on both splits, with the classes of Cityscapes,
and tests on Cityscapes. ``dataloader_for_cityscapes`` does the same.
"""

from vit_adapter.data import class_names

from .semantic import make_data as _make_data, make_dataloader as _make_dataloader

num_classes = len(class_names("mapillary_vistas_sem_seg_train", kind="stuff"))
num_classes_for_cityscapes = len(class_names("mapillary_vistas_cityscapes_train", kind="stuff"))
data = _make_data(crop=896, scale=(2048, 1024))
dataloader = _make_dataloader("mapillary_vistas_sem_seg_train", "mapillary_vistas_sem_seg_val")
dataloader_for_cityscapes = _make_dataloader(
    ["mapillary_vistas_cityscapes_train", "mapillary_vistas_cityscapes_val"],
    "cityscapes_fine_sem_seg_val",
)
