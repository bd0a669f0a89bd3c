"""ADE20K, 150 classes: crops of 512, 640 or 896 pixels."""

from vit_adapter.data import class_names

from .semantic import make_data as _make_data, make_dataloader as _make_dataloader

num_classes = len(class_names("ade20k_sem_seg_train", kind="stuff"))
data = _make_data(crop=512, scale=(2048, 512))
data_640 = _make_data(crop=640, scale=(2048, 640))
data_896 = _make_data(crop=896, scale=(3584, 896))
dataloader = _make_dataloader("ade20k_sem_seg_train", "ade20k_sem_seg_val")
