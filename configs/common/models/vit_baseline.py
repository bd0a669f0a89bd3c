"""Backbones for detection without an adapter.

Baselines: a ViT with a few up-samplings, and ViTDet in the form of ViT-Adapter's paper. Both use
the tokens after the last block of each quarter, which has global attention. ViTDet adds a residual
bottleneck to that block.

``single_scale``: only the last tokens, for ViTDet's own pyramid (``cascade_mask_rcnn_vitdet.py``).
"""

from copy import deepcopy as _deepcopy

from detectron2.config import LazyCall as L

from vit_adapter.backbone import SingleScaleViT, ViTBaseline

from .vit import (
    base as _vit_base,
    base_mae as _vit_base_mae,
    dinov2_small_global as _dinov2_small,
    large as _vit_large,
    small as _vit_small,
    tiny as _vit_tiny,
    tiny_scratch as _scratch,
)
from .vit_timm import beit3_giant as _beit3_giant


def _baseline(vit, residual=False):
    quarter = vit.depth // 4
    out_indexes = [(i + 1) * quarter - 1 for i in range(4)]
    vit = _deepcopy(vit)
    vit.residual_indexes = out_indexes if residual else []
    return L(ViTBaseline)(vit=vit, out_indexes=out_indexes)


vit_tiny, vitdet_tiny = _baseline(_vit_tiny), _baseline(_vit_tiny, residual=True)
vit_small, vitdet_small = _baseline(_vit_small), _baseline(_vit_small, residual=True)
vit_base, vitdet_base = _baseline(_vit_base), _baseline(_vit_base, residual=True)
vit_base_mae = _baseline(_vit_base_mae)
vit_large, vitdet_large = _baseline(_vit_large), _baseline(_vit_large, residual=True)

# For small data: see quick_start.py
vit_small_dinov2 = _baseline(_dinov2_small)
vit_tiny_scratch, vitdet_tiny_scratch = _baseline(_scratch), _baseline(_scratch, residual=True)

single_scale_giant_beit3 = L(SingleScaleViT)(vit=_beit3_giant)
single_scale_giant_beit3.vit.drop_path_rate = 0.5  # as ViTDet's largest model
single_scale_giant_beit3.vit.use_checkpoint = True
