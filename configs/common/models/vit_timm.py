"""ViTs of timm for detection: global attention in four blocks, windows of 14x14 tokens in the rest.

Learned positions keep the grid of the pre-training (``img_size=None``). ``embed_dim`` and ``depth``
are those of the model; they are given here because adapters derive the rest from them.
"""

from detectron2.config import LazyCall as L

from vit_adapter.backbone import TimmViT


def _timm_vit(name, embed_dim, depth, window_size=14, patch_size=16):
    quarter = depth // 4
    return L(TimmViT)(
        name=name,
        patch_size=patch_size,
        img_size=None,
        drop_path_rate=0.0,
        # 0 = global: blocks 2, 5, 8, 11 of 12; blocks 5, 11, 17, 23 of 24; and so on
        window_sizes=([window_size] * (quarter - 1) + [0]) * 4,
        depth=depth,
        embed_dim=embed_dim,
        use_checkpoint=False,
        model_args={},
    )


beit3_base = _timm_vit("beit3_base_patch16_224", 768, depth=12)
beit3_large = _timm_vit("beit3_large_patch16_224", 1024, depth=24)
beit3_giant = _timm_vit("beit3_giant_patch14_224", 1408, depth=40)
# The class token stays. With registers: name=vit_small_patch14_reg4_dinov2
dinov2_small = _timm_vit("vit_small_patch14_dinov2", 384, depth=12)
dinov2_base = _timm_vit("vit_base_patch14_dinov2", 768, depth=12)
dinov2_large = _timm_vit("vit_large_patch14_dinov2", 1024, depth=24)
dinov3_small = _timm_vit("vit_small_patch16_dinov3", 384, depth=12)
dinov3_base = _timm_vit("vit_base_patch16_dinov3", 768, depth=12)
dinov3_large = _timm_vit("vit_large_patch16_dinov3", 1024, depth=24)
# Of these sizes, only the frozen mode is affordable for most, so all attention is global.
dinov3_huge_plus = _timm_vit("vit_huge_plus_patch16_dinov3", 1280, depth=32, window_size=0)
dinov3_7b = _timm_vit("vit_7b_patch16_dinov3", 4096, depth=40, window_size=0)
eva02_base = _timm_vit("eva02_base_patch14_224", 768, depth=12)
eva02_large = _timm_vit("eva02_large_patch14_224", 1024, depth=24)

# With its own patch size, as in the segmentor of DINOv2's authors
dinov2_giant = _timm_vit("vit_giant_patch14_dinov2", 1536, 40, window_size=0, patch_size=14)
dinov2_giant.antialias_positions = False
