"""Shared parts of the quick-start configs: a small Mask R-CNN, for two CPU cores.

Made for a few hundred to a few thousand images of about 256 px: a narrow pyramid and narrow heads,
fewer sampled regions, anchors of a quarter of the usual size, and a norm in the pyramid, which is
trained from scratch. This is a group norm: with few and different images in a batch, a batch norm
would learn the statistics of the batch and fail at test time. The data are the generated shapes,
unless ``data.*`` names others. Masks are read as bitmaps, which also works for polygons.
"""

from detectron2.config import LazyCall as L

from vit_adapter.data import class_names, flip_and_resize, resize

from .data.coco import data, dataloader_1x as dataloader
from .detector_testing import test
from .models.mask_rcnn import model, task
from .optim import custom_keys as optimizer
from .schedule import lr_scratch as lr_multiplier
from .train import train_scratch as train

model.backbone.out_channels = 64
model.backbone.norm = "GN"
model.proposal_generator.anchor_generator.sizes = [[8], [16], [32], [64], [128]]  # 2 x stride
model.proposal_generator.batch_size_per_image = 128
model.proposal_generator.pre_nms_topk = [500, 300]
model.proposal_generator.post_nms_topk = [300, 200]
model.roi_heads.num_classes = len(class_names("shapes_train"))
model.roi_heads.batch_size_per_image = 32
model.roi_heads.box_head.fc_dims = [256, 256]
model.roi_heads.mask_head.conv_dims = [64, 64, 64]

dataloader.train.dataset.names = "shapes_train"
dataloader.train.mapper.augmentations = L(flip_and_resize)(short_edges=[256], max_size=512)
dataloader.train.mapper.instance_mask_format = "bitmask"
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = 0
dataloader.test.dataset.names = "shapes_val"
dataloader.test.mapper.augmentations = L(resize)(short_edges=[256], max_size=512)
dataloader.test.num_workers = 0

test.augmentation.scales, test.augmentation.max_size = [192, 256, 320], 640
test.tiles.size, test.tiles.overlap = [256, 256], [64, 64]

optimizer.lr = 5e-4
