"""COCO panoptic segmentation, 133 classes, of which the first 80 are things.

``dataloader_detr`` is the original's: sizes and crops as for the 3x schedule, without its last
crop. The others use large-scale jitter. Test images are resized to 800/1333, or to fit into
640 x 640.
"""

from detectron2.config import LazyCall as L

from vit_adapter.data import class_names, coco_panoptic_train, thing_ids

from .panoptic import (
    data,
    make_dataloader as _make_dataloader,
    make_jittered as _make_jittered,
    resize_to as _resize_to,
)

_names = ("coco_2017_train_panoptic", "coco_2017_val_panoptic")

num_classes = len(class_names(_names[0], kind="stuff"))
thing_classes = thing_ids(_names[0])
dataloader_detr = _make_dataloader(*_names, L(coco_panoptic_train)(), _resize_to(800, 1333))
dataloader_1024 = _make_jittered(*_names, 1024, _resize_to(800, 1333))
dataloader_640 = _make_jittered(*_names, 640, _resize_to(640, 640))
