"""The plain-ViT baseline for semantic segmentation: global attention in all blocks."""

from copy import deepcopy as _deepcopy

from detectron2.config import LazyCall as L

from vit_adapter.backbone import BEiTBaseline

from .vit_adapter_seg import beit_large as _beit_adapter
from .vit_baseline import (
    vit_base as _base,
    vit_large as _large,
    vit_small as _small,
    vit_small_dinov2 as _small_dinov2,
    vit_tiny as _tiny,
    vit_tiny_scratch as _tiny_scratch,
)


def _segmentation(backbone):
    backbone = _deepcopy(backbone)
    backbone.vit.window_sizes = []
    return backbone


vit_tiny, vit_small, vit_base = _segmentation(_tiny), _segmentation(_small), _segmentation(_base)
vit_large = _segmentation(_large)
vit_tiny_scratch = _segmentation(_tiny_scratch)
vit_small_dinov2 = _segmentation(_small_dinov2)

# AugReg weights of this size were last trained at 384 pixels.
vit_base_augreg = _segmentation(_base)
vit_base_augreg.vit.img_size = 384

# BEiT's own segmentor uses the tokens after different blocks.
beit_large = L(BEiTBaseline)(vit=_deepcopy(_beit_adapter.vit), out_indexes=[7, 11, 15, 23])
beit_large.vit.drop_path_rate = 0.2
beit_large.vit.use_checkpoint = False  # as in the original
