"""COCO-Stuff 10K, 171 classes: crops of 512 pixels."""

from vit_adapter.data import class_names

from .semantic import make_data as _make_data, make_dataloader as _make_dataloader

num_classes = len(class_names("coco_stuff_10k_train", kind="stuff"))
data = _make_data(crop=512, scale=(2048, 512))
dataloader = _make_dataloader("coco_stuff_10k_train", "coco_stuff_10k_test")
