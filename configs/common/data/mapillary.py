"""Mapillary Vistas: its own 65 classes, or the 19 of Cityscapes; crops of 896 pixels.

The original trains on Mapillary before Cityscapes: on both splits, with the classes of Cityscapes,
tested on Cityscapes. That is ``dataloader_for_cityscapes``.
"""

from .semantic import make_data as _make_data, make_dataloader as _make_dataloader

num_classes, num_classes_for_cityscapes = 65, 19
data = _make_data(crop=896, scale=(2048, 1024))
dataloader = _make_dataloader("mapillary_vistas_sem_seg_train", "mapillary_vistas_sem_seg_val")
dataloader_for_cityscapes = _make_dataloader(
    ["mapillary_vistas_cityscapes_train", "mapillary_vistas_cityscapes_val"],
    "cityscapes_fine_sem_seg_val",
)
