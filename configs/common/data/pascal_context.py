"""PASCAL-Context, 59 classes: crops of 480 pixels.

Training limits the longer side to 520 times the ratio; testing limits the shorter side.
"""

from vit_adapter.data import class_names

from .semantic import make_data as _make_data, make_dataloader as _make_dataloader

num_classes = len(class_names("pascal_context_59_train", kind="stuff"))
data = _make_data(crop=480, scale=(520, 520), test_scale=(4096, 520))
dataloader = _make_dataloader("pascal_context_59_train", "pascal_context_59_val")
