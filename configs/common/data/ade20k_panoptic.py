"""ADE20K panoptic segmentation, 150 classes, of which 100 are things: squares of 640 pixels.

Test images are resized to a short side of 640 and a long side of at most 2560 pixels.
"""

from vit_adapter.data import class_names, thing_ids

from .panoptic import data, make_jittered as _make_jittered, resize_to as _resize_to

_names = ("ade20k_panoptic_train", "ade20k_panoptic_val")

num_classes = len(class_names(_names[0], kind="stuff"))
thing_classes = thing_ids(_names[0])
dataloader = _make_jittered(*_names, 640, _resize_to(640, 2560))
