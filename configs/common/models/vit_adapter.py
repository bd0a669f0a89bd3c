"""ViT-Adapter for detection: four interactions, each with a quarter of the ViT's blocks."""

from detectron2.config import LazyCall as L

from vit_adapter.backbone import ViTAdapter

from .vit import (
    base as _vit_base,
    base_mae as _base_mae,
    beit_base as _beit_base,
    beit_large as _beit_large,
    dinov2_base as _dinov2_base,
    dinov2_large as _dinov2_large,
    dinov2_small as _dinov2_small,
    dinov2_small_global as _dinov2_small_global,
    large as _vit_large,
    micro_scratch as _vit_micro_scratch,
    small as _vit_small,
    tiny as _vit_tiny,
    tiny_scratch as _vit_tiny_scratch,
    uniperceiver_base as _uniperceiver_base,
    uniperceiver_large as _uniperceiver_large,
)
from .vit_timm import (
    beit3_base as _beit3_base,
    beit3_giant as _beit3_giant,
    beit3_large as _beit3_large,
    dinov2_base as _dinov2_base_timm,
    dinov2_giant as _dinov2_giant,
    dinov2_large as _dinov2_large_timm,
    dinov2_small as _dinov2_small_timm,
    dinov3_7b as _dinov3_7b,
    dinov3_base as _dinov3_base,
    dinov3_huge_plus as _dinov3_huge_plus,
    dinov3_large as _dinov3_large,
    dinov3_small as _dinov3_small,
    eva02_base as _eva02_base,
    eva02_large as _eva02_large,
)


def _vit_adapter(
    vit, drop_path_rate, deform_num_heads, deform_ratio, conv_inplane=64, norm="SyncBN"
):
    quarter = vit.depth // 4
    vit.drop_path_rate = drop_path_rate
    return L(ViTAdapter)(
        vit=vit,
        mode="full",  # or "frozen", "light"
        interaction_indexes=[[i * quarter, (i + 1) * quarter - 1] for i in range(4)],
        conv_inplane=conv_inplane,
        num_points=4,
        deform_num_heads=deform_num_heads,
        deform_ratio=deform_ratio,
        with_cffn=True,
        cffn_ratio=0.25,
        use_extra_extractor=True,
        vit_feature_fusion="last",
        init_values=0.0,
        drop_path_rate="${.vit.drop_path_rate}",
        norm=norm,
        use_checkpoint=False,
    )


# Width of a deformable head = embed_dim * deform_ratio / deform_num_heads: 32, 64, 32, 32
tiny = _vit_adapter(_vit_tiny, 0.1, deform_num_heads=6, deform_ratio=1.0)
small = _vit_adapter(_vit_small, 0.2, deform_num_heads=6, deform_ratio=1.0)
base = _vit_adapter(_vit_base, 0.3, deform_num_heads=12, deform_ratio=0.5)
large = _vit_adapter(_vit_large, 0.4, deform_num_heads=16, deform_ratio=0.5)

small_dinov2 = _vit_adapter(_dinov2_small, 0.2, deform_num_heads=6, deform_ratio=1.0)
base_dinov2 = _vit_adapter(_dinov2_base, 0.3, deform_num_heads=12, deform_ratio=0.5)
large_dinov2 = _vit_adapter(_dinov2_large, 0.4, deform_num_heads=16, deform_ratio=0.5)
# On timm's model, which keeps the class token and can have registers
small_dinov2_timm = _vit_adapter(_dinov2_small_timm, 0.2, deform_num_heads=6, deform_ratio=1.0)
base_dinov2_timm = _vit_adapter(_dinov2_base_timm, 0.3, deform_num_heads=12, deform_ratio=0.5)
large_dinov2_timm = _vit_adapter(_dinov2_large_timm, 0.4, deform_num_heads=16, deform_ratio=0.5)
giant_dinov2 = _vit_adapter(_dinov2_giant, 0.4, deform_num_heads=24, deform_ratio=0.5)

# The rate is for 25 epochs.
base_mae = _vit_adapter(_base_mae, 0.1, deform_num_heads=12, deform_ratio=0.5)
base_mae.use_extra_extractor = False

base_uniperceiver = _vit_adapter(_uniperceiver_base, 0.2, deform_num_heads=12, deform_ratio=0.5)

large_uniperceiver = _vit_adapter(_uniperceiver_large, 0.4, deform_num_heads=16, deform_ratio=0.5)
large_beit = _vit_adapter(_beit_large, 0.4, deform_num_heads=16, deform_ratio=0.5)
large_beit.init_values = "${.vit.init_values}"

# Published for MMDetection. Its config does not state the windows: they are those of the original's
# large BEiT detectors.
base_beit = _vit_adapter(_beit_base, 0.1, deform_num_heads=12, deform_ratio=0.5)
base_beit.use_checkpoint = base_beit.vit.use_checkpoint = True

# Not among the published models; drop path as for the weights above.
base_beit3 = _vit_adapter(_beit3_base, 0.3, deform_num_heads=12, deform_ratio=0.5)
large_beit3 = _vit_adapter(_beit3_large, 0.4, deform_num_heads=16, deform_ratio=0.5)
giant_beit3 = _vit_adapter(_beit3_giant, 0.4, deform_num_heads=16, deform_ratio=0.5)
small_dinov3 = _vit_adapter(_dinov3_small, 0.2, deform_num_heads=6, deform_ratio=1.0)
base_dinov3 = _vit_adapter(_dinov3_base, 0.3, deform_num_heads=12, deform_ratio=0.5)
large_dinov3 = _vit_adapter(_dinov3_large, 0.4, deform_num_heads=16, deform_ratio=0.5)
huge_plus_dinov3 = _vit_adapter(_dinov3_huge_plus, 0.3, deform_num_heads=16, deform_ratio=0.5)
dinov3_7b = _vit_adapter(_dinov3_7b, 0.3, deform_num_heads=16, deform_ratio=0.5)
# Too large to train: frozen, and read through the ViT's final norm, as by DINOv3's authors
for _backbone in (huge_plus_dinov3, dinov3_7b):
    _backbone.mode = "frozen"
    _backbone.vit.final_norm = _backbone.norm_taps = True
    _backbone.norm_eps = 1e-6
dinov3_7b.frozen_dtype = "bfloat16"  # 13.4 instead of 26.9 GB
base_eva02 = _vit_adapter(_eva02_base, 0.3, deform_num_heads=12, deform_ratio=0.5)
large_eva02 = _vit_adapter(_eva02_large, 0.4, deform_num_heads=16, deform_ratio=0.5)

# For small data: see quick_start.py
small_dinov2_frozen = _vit_adapter(_dinov2_small_global, 0.0, 6, 1.0, norm="GN")
small_dinov2_frozen.mode = "frozen"
tiny_scratch = _vit_adapter(_vit_tiny_scratch, 0.0, 6, 1.0, norm="GN")
micro_scratch = _vit_adapter(_vit_micro_scratch, 0.0, 3, 1.0, conv_inplane=32, norm="BN")
