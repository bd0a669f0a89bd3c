"""COCO-Stuff 164K, 171 classes: crops of 640 or 896 pixels."""

from vit_adapter.data import class_names

from .semantic import make_data as _make_data, make_dataloader as _make_dataloader

num_classes = len(class_names("coco_stuff_164k_train", kind="stuff"))
data = _make_data(crop=896, scale=(3584, 896))
data_640 = _make_data(crop=640, scale=(2560, 640))
dataloader = _make_dataloader("coco_stuff_164k_train", "coco_stuff_164k_val")
