"""Cityscapes panoptic segmentation, 19 classes, of which 8 are things: squares of 1024 pixels.

Images are tested at their own size.
"""

from vit_adapter.data import class_names, thing_ids

from .panoptic import data, make_jittered as _make_jittered

_names = ("cityscapes_fine_panoptic_train", "cityscapes_fine_panoptic_val")

num_classes = len(class_names(_names[0], kind="stuff"))
thing_classes = thing_ids(_names[0])
dataloader = _make_jittered(*_names, 1024, [])
