"""Semantic segmentation: heads for Detectron2's ``SemanticSegmentor``.

Importing this package registers the heads in Detectron2's ``SEM_SEG_HEADS_REGISTRY``.
"""

from vit_adapter.segmentation.auxiliary import HeadWithAuxiliary
from vit_adapter.segmentation.fcn import FCNHead
from vit_adapter.segmentation.losses import pixel_cross_entropy
from vit_adapter.segmentation.segmentor import PixelSegmentor
from vit_adapter.segmentation.semantic_fpn import SemanticFPNHead
from vit_adapter.segmentation.upernet import UPerNetHead

__all__ = [
    "FCNHead",
    "HeadWithAuxiliary",
    "PixelSegmentor",
    "SemanticFPNHead",
    "UPerNetHead",
    "pixel_cross_entropy",
]
