"""ViT-Adapter for semantic segmentation: sizes as for detection, but other attention and fusion.

All blocks have global attention, and the tokens after each interaction are added to one output.
BEiT's position biases are made for the training crop, ``data.crop_size``.
"""

from copy import deepcopy as _deepcopy

from detectron2.config import LazyCall as L

from vit_adapter.backbone import BEiT, UniPerceiver

from .vit_adapter import (
    base as _base,
    base_dinov2_timm as _base_dinov2,
    base_dinov3 as _base_dinov3,
    dinov3_7b as _dinov3_7b,
    giant_beit3 as _giant_beit3,
    giant_dinov2 as _giant_dinov2,
    huge_plus_dinov3 as _huge_plus_dinov3,
    large as _large,
    large_dinov2_timm as _large_dinov2,
    large_dinov3 as _large_dinov3,
    small as _small,
    small_dinov2_frozen as _small_dinov2_frozen,
    small_dinov2_timm as _small_dinov2,
    small_dinov3 as _small_dinov3,
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

small_dinov2, base_dinov2 = _segmentation(_small_dinov2), _segmentation(_base_dinov2)
large_dinov2, giant_dinov2 = _segmentation(_large_dinov2), _segmentation(_giant_dinov2)
small_dinov3, base_dinov3 = _segmentation(_small_dinov3), _segmentation(_base_dinov3)
large_dinov3, huge_plus_dinov3 = _segmentation(_large_dinov3), _segmentation(_huge_plus_dinov3)
dinov3_7b = _segmentation(_dinov3_7b)

# As in the original, all large models recompute activations to save memory.
_large_models = (large, beit_large, uniperceiver_large, beit3_giant, large_dinov2, giant_dinov2)
for _backbone in (*_large_models, large_dinov3, huge_plus_dinov3, dinov3_7b):
    _backbone.use_checkpoint = _backbone.vit.use_checkpoint = True


def _dinov3_segmentor(backbone):
    """The adapter of DINOv3's segmentor: frozen ViT, read through its final norm."""
    backbone = _deepcopy(backbone)
    backbone.mode = "frozen"
    backbone.vit.final_norm = backbone.norm_taps = True
    backbone.norm_eps = 1e-6
    backbone.drop_path_rate = 0.3
    backbone.use_checkpoint = True
    return backbone


small_dinov3_frozen, base_dinov3_frozen = map(_dinov3_segmentor, (small_dinov3, base_dinov3))
large_dinov3_frozen, huge_plus_dinov3_frozen = map(
    _dinov3_segmentor, (large_dinov3, huge_plus_dinov3)
)
dinov3_7b_frozen = _dinov3_segmentor(dinov3_7b)
# After block 4, not 5, as in the release
large_dinov3_frozen.interaction_indexes = [[0, 4], [5, 11], [12, 17], [18, 23]]
