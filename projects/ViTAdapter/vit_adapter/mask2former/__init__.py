"""Mask2Former: one head for semantic, instance and panoptic segmentation.

Importing this package registers :class:`Mask2Former` in Detectron2's ``META_ARCH_REGISTRY``.
"""

from vit_adapter.mask2former.criterion import SetCriterion
from vit_adapter.mask2former.matcher import HungarianMatcher
from vit_adapter.mask2former.meta_arch import Mask2Former, Mask2FormerHead
from vit_adapter.mask2former.pixel_decoder import MSDeformAttnPixelDecoder, PixelFeatures
from vit_adapter.mask2former.targets import MaskTargets, prepare_targets
from vit_adapter.mask2former.transformer_decoder import MaskedTransformerDecoder, MaskPredictions

__all__ = [
    "HungarianMatcher",
    "MSDeformAttnPixelDecoder",
    "Mask2Former",
    "Mask2FormerHead",
    "MaskPredictions",
    "MaskTargets",
    "MaskedTransformerDecoder",
    "PixelFeatures",
    "SetCriterion",
    "prepare_targets",
]
