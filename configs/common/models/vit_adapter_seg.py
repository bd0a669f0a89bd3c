"""ViT-Adapter for semantic segmentation: the sizes of detection, attending and fusing otherwise.

All blocks attend globally, and the tokens after each interaction are added to one output.
"""

from copy import deepcopy as _deepcopy

from .vit_adapter import base as _base
from .vit_adapter import large as _large
from .vit_adapter import small as _small
from .vit_adapter import tiny as _tiny
from .vit_adapter import tiny_scratch as _tiny_scratch


def _segmentation(backbone):
    backbone = _deepcopy(backbone)
    backbone.vit.window_sizes = []
    backbone.vit_feature_fusion = "per_interaction"
    return backbone


tiny, small, base = _segmentation(_tiny), _segmentation(_small), _segmentation(_base)
large = _segmentation(_large)
tiny_scratch = _segmentation(_tiny_scratch)

# AugReg weights of this size were last trained at 384 pixels.
base_augreg = _segmentation(_base)
base_augreg.vit.img_size = 384

# One interaction, and nothing but attention in it
base_light = _segmentation(_base)
base_light.interaction_indexes = [[0, base_light.vit.depth - 1]]
base_light.with_cffn = base_light.use_extra_extractor = False
base_light.vit_feature_fusion = "none"
