"""Cityscapes, 19 classes: crops of 896 pixels; images are tested at their own size."""

from vit_adapter.data import class_names

from .semantic import make_data as _make_data, make_dataloader as _make_dataloader

num_classes = len(class_names("cityscapes_fine_sem_seg_train", kind="stuff"))
data = _make_data(crop=896, scale=(2048, 1024))
dataloader = _make_dataloader(
    "cityscapes_fine_sem_seg_train", "cityscapes_fine_sem_seg_val", size_divisor=1
)
