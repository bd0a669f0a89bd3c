"""ViT-Adapter for semantic segmentation: sizes as for detection, but other attention and fusion.

All blocks have global attention, and the tokens after each interaction are added to one output.
BEiT's position biases are made for the training crop, ``data.crop_size``.
"""

from copy import deepcopy as _deepcopy

from detectron2.config import LazyCall as L

from vit_adapter.backbone import BEiT, UniPerceiver

from .vit_adapter import (
    base as _base,
    giant_beit3 as _giant_beit3,
    large as _large,
    small as _small,
    small_dinov2_frozen as _small_dinov2_frozen,
    tiny as _tiny,
    tiny_scratch as _tiny_scratch,
)


def _segmentation(backbone):
    backbone = _deepcopy(backbone)
    backbone.vit.window_sizes = []
    backbone.vit_feature_fusion = "per_interaction"
    return backbone


tiny, small, base = _segmentation(_tiny), _segmentation(_small), _segmentation(_base)
large = _segmentation(_large)
tiny_scratch = _segmentation(_tiny_scratch)
small_dinov2_frozen = _segmentation(_small_dinov2_frozen)

# AugReg weights of this size were last trained at 384 pixels.
base_augreg = _segmentation(_base)
base_augreg.vit.img_size = 384

# A single interaction, without feed-forward network and extra extractors
base_single = _segmentation(_base)
base_single.interaction_indexes = [[0, base_single.vit.depth - 1]]
base_single.with_cffn = base_single.use_extra_extractor = False
base_single.vit_feature_fusion = "none"


def _with_trunk(backbone, trunk, drop_path_rate, **options):
    """The same adapter on another kind of trunk of the same size."""
    backbone = _segmentation(backbone)
    sizes = {
        key: backbone.vit[key]
        for key in ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "use_checkpoint")
    }
    backbone.vit = L(trunk)(**sizes, drop_path_rate=drop_path_rate, window_sizes=[], **options)
    return backbone


def _beit(backbone, drop_path_rate):
    backbone = _with_trunk(
        backbone,
        BEiT,
        drop_path_rate,
        img_size="${data.crop_size.0}",
        qkv_bias=True,
        init_values=1e-6,
        class_token=True,
    )
    backbone.init_values = "${.vit.init_values}"
    return backbone


beit_base, beit_large = _beit(_base, 0.2), _beit(_large, 0.3)
uniperceiver_large = _with_trunk(_large, UniPerceiver, 0.4, img_size=224)

beit3_giant = _segmentation(_giant_beit3)

# As in the original, all large models recompute activations to save memory.
for _backbone in (large, beit_large, uniperceiver_large, beit3_giant):
    _backbone.use_checkpoint = _backbone.vit.use_checkpoint = True
