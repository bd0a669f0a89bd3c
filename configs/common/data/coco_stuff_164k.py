"""COCO-Stuff 164K, 171 classes: crops of 896 pixels; crops of 640 have scale (2560, 640)."""

from .semantic import make_data as _make_data
from .semantic import make_dataloader as _make_dataloader

num_classes = 171
data = _make_data(crop=896, scale=(3584, 896))
dataloader = _make_dataloader("coco_stuff_164k_train", "coco_stuff_164k_val")
