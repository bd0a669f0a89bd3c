"""Shared parts of the quick-start configs for semantic segmentation, for two CPU cores.

Made for a few hundred images of about 256 to 512 px: crops of 256 pixels in batches of 4, group
norms (batch norms would learn the statistics of such a batch and fail at test time), and whole
images at test time. The data are the generated shapes, unless ``data.*`` names others. A leaf adds
the model and its number of classes, ``num_classes``.
"""

from vit_adapter.data import class_names

from .data.semantic import make_data as _make_data, make_dataloader as _make_dataloader
from .optim import custom_keys as optimizer
from .schedule import lr_poly as lr_multiplier
from .train import train_scratch as train

num_classes = len(class_names("shapes_train_sem_seg", kind="stuff"))
data = _make_data(crop=256, scale=(1024, 256))
dataloader = _make_dataloader("shapes_train_sem_seg", "shapes_val_sem_seg")
dataloader["train"].total_batch_size = 4
dataloader["train"].num_workers = 0
dataloader["test"].num_workers = 0

optimizer.lr = 5e-4
lr_multiplier.warmup_iters = 100
