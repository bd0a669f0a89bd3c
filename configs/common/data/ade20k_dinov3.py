"""ADE20K for DINOv3's segmentor: tests at a shorter side of 896 pixels, whatever the longer one."""

from .ade20k import num_classes
from .semantic import make_data as _make_data, make_dataloader as _make_dataloader

data = _make_data(crop=896, scale=(3584, 896), test_scale=(100 * 896, 896))
dataloader = _make_dataloader("ade20k_sem_seg_train", "ade20k_sem_seg_val", size_divisor=1)
