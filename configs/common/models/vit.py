"""Plain ViTs for detection: global attention in four blocks, windows of 14x14 tokens in the rest.

Only this file has the sizes; adapters and baselines derive the rest from ``depth``. ``img_size`` is
the image size of the pre-training, which fixes the grid of the position embedding: 224 for DeiT,
384 for the AugReg weights of the large size. DINOv2's grid of 37x37 patches is that of 592 px at
patch size 16.
"""

from detectron2.config import LazyCall as L

from vit_adapter.backbone import BEiT, PlainViT, UniPerceiver


def _plain_vit(
    embed_dim, depth, num_heads, img_size, drop_path_rate, window_size=14, layer_scale=True
):
    quarter = depth // 4
    return L(PlainViT)(
        img_size=img_size,
        patch_size=16,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=4.0,
        qkv_bias=True,
        layer_scale=layer_scale,
        drop_path_rate=drop_path_rate,
        # 0 = global: blocks 2, 5, 8, 11 of 12; blocks 5, 11, 17, 23 of 24
        window_sizes=([window_size] * (quarter - 1) + [0]) * 4,
        residual_indexes=[],
        use_checkpoint=False,
    )


# drop_path_rate is for a ViT without an adapter.
tiny = _plain_vit(192, 12, 3, img_size=224, drop_path_rate=0.1)
small = _plain_vit(384, 12, 6, img_size=224, drop_path_rate=0.1)
base = _plain_vit(768, 12, 12, img_size=224, drop_path_rate=0.1)
base_mae = _plain_vit(768, 12, 12, img_size=224, drop_path_rate=0.1, layer_scale=False)
large = _plain_vit(1024, 24, 16, img_size=384, drop_path_rate=0.4)
dinov2_small = _plain_vit(384, 12, 6, img_size=592, drop_path_rate=0.1)
dinov2_base = _plain_vit(768, 12, 12, img_size=592, drop_path_rate=0.1)
dinov2_large = _plain_vit(1024, 24, 16, img_size=592, drop_path_rate=0.4)

uniperceiver_base = L(UniPerceiver)(
    img_size=224,
    patch_size=16,
    embed_dim=768,
    depth=12,
    num_heads=12,
    mlp_ratio=4.0,
    drop_path_rate=0.1,
    window_sizes=[14, 14, 0] * 4,
    use_checkpoint=False,
)


def _beit(embed_dim, depth, num_heads, init_values):
    """BEiT has windows in all blocks: of 56x56 tokens where the others have global attention."""
    return L(BEiT)(
        img_size=224,
        patch_size=16,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=4.0,
        qkv_bias=True,
        init_values=init_values,  # of the layer scale, which the weights bring
        class_token=False,
        drop_path_rate=0.1,
        window_sizes=([14] * (depth // 4 - 1) + [56]) * 4,
        use_checkpoint=False,
    )


beit_base = _beit(768, 12, 12, init_values=0.0)
beit_large = _beit(1024, 24, 16, init_values=1e-6)

uniperceiver_large = L(UniPerceiver)(
    img_size=224,
    patch_size=16,
    embed_dim=1024,
    depth=24,
    num_heads=16,
    mlp_ratio=4.0,
    drop_path_rate=0.1,
    window_sizes=([14] * 5 + [0]) * 4,
    use_checkpoint=False,
)

# For images that are too small for windows
dinov2_small_global = _plain_vit(384, 12, 6, img_size=592, drop_path_rate=0.0, window_size=0)
# Also without pre-training
tiny_scratch = _plain_vit(192, 12, 3, img_size=256, drop_path_rate=0.0, window_size=0)
micro_scratch = _plain_vit(96, 4, 3, img_size=128, drop_path_rate=0.0, window_size=0)
