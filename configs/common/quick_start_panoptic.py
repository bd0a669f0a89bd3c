"""Shared parts of the quick-start configs for panoptic segmentation, for two CPU cores.

Made for a few hundred images of about 256 px in batches of 4. The data are the generated shapes,
unless ``data.*`` names others. A leaf adds the model, its ``num_classes`` and ``thing_classes``.
"""

from detectron2.config import LazyCall as L

from vit_adapter.data import class_names, flip_and_resize, thing_ids

from .data.panoptic import data, make_dataloader as _make_dataloader, resize_to as _resize_to
from .optim import custom_keys as optimizer
from .schedule import lr_poly as lr_multiplier
from .train import train_scratch as train

_names = ("shapes_train_panoptic", "shapes_val_panoptic")

num_classes = len(class_names(_names[0], kind="stuff"))
thing_classes = thing_ids(_names[0])


def _dataloader(short_edge):
    augmentations = L(flip_and_resize)(short_edges=[short_edge], max_size=2 * short_edge)
    dataloader = _make_dataloader(*_names, augmentations, _resize_to(short_edge, 2 * short_edge))
    dataloader["train"].total_batch_size = 4
    dataloader["train"].num_workers = dataloader["test"].num_workers = 0
    return dataloader


dataloader = _dataloader(256)
dataloader_128 = _dataloader(128)  # the size of the generated images

optimizer.lr = 5e-4
lr_multiplier.warmup_iters = 100
