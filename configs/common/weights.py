"""Public pre-trained ViT weights, for ``train.vit_checkpoint``."""

_deit = "https://dl.fbaipublicfiles.com/deit"
_augreg = "https://storage.googleapis.com/vit_models/augreg"
_beit = "https://github.com/addf400/files/releases/download"
_mae = "https://dl.fbaipublicfiles.com/mae"
_uniperceiver = "https://github.com/czczup/ViT-Adapter/releases/download/v0.3.1"
_dinov2 = "https://dl.fbaipublicfiles.com/dinov2"

# DeiT (https://arxiv.org/abs/2012.12877): ImageNet-1k, 224 px, ImageNet mean and std
deit_tiny = f"{_deit}/deit_tiny_patch16_224-a1311bcf.pth"
deit_small = f"{_deit}/deit_small_patch16_224-cd65a155.pth"
deit_base = f"{_deit}/deit_base_patch16_224-b5f2ef4d.pth"
# AugReg (https://arxiv.org/abs/2106.10270): ImageNet-21k, then ImageNet-1k at 384 px (tiny: 224)
augreg_tiny = (
    f"{_augreg}/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"
    "--imagenet2012-steps_20k-lr_0.03-res_224.npz"
)
augreg_base = (
    f"{_augreg}/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"
    "--imagenet2012-steps_20k-lr_0.01-res_384.npz"
)
augreg_large = (
    f"{_augreg}/L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1"
    "--imagenet2012-steps_20k-lr_0.01-res_384.npz"
)
# MAE (https://arxiv.org/abs/2111.06377): ImageNet-1k without labels, 224 px, ImageNet mean and std
mae_base = f"{_mae}/pretrain/mae_pretrain_vit_base.pth"
# BEiT (https://arxiv.org/abs/2106.08254): ImageNet-22k, 224 px; the published segmentors use
# ImageNet mean and std
beit_base = f"{_beit}/v1.0/beit_base_patch16_224_pt22k_ft22k.pth"
beit_base_1k = f"{_beit}/v1.0/beit_base_patch16_224_pt22k_ft22kto1k.pth"  # then ImageNet-1k
beit_large = f"{_beit}/v1.0/beit_large_patch16_224_pt22k_ft22k.pth"
# BEiTv2 (https://arxiv.org/abs/2208.06366): ImageNet-1k, then ImageNet-21k
beitv2_large = f"{_beit}/BEiT-v2/beitv2_large_patch16_224_pt1k_ft21k.pth"
# Uni-Perceiver (https://arxiv.org/abs/2112.01522): images, videos and texts, 224 px
uniperceiver_base = (
    f"{_uniperceiver}/uni-perceiver-base-L12-H768-224size-torch-pretrained_converted.pth"
)
uniperceiver_large = (
    f"{_uniperceiver}/uni-perceiver-large-L24-H1024-224size-pretrained_converted.pth"
)
# DINOv2 (https://arxiv.org/abs/2304.07193): 142 million images, patches of 14 px, ImageNet mean
# and std
dinov2_small = f"{_dinov2}/dinov2_vits14/dinov2_vits14_pretrain.pth"
dinov2_base = f"{_dinov2}/dinov2_vitb14/dinov2_vitb14_pretrain.pth"
dinov2_large = f"{_dinov2}/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
dinov2_giant = f"{_dinov2}/dinov2_vitg14/dinov2_vitg14_pretrain.pth"

# By name in timm, which knows the addresses:
# DINOv2 with or without registers, as the ViT of the config says
dinov2_timm = "timm:${model.backbone.vit.name}.lvd142m"
dinov2_timm_fpn = "timm:${model.backbone.bottom_up.vit.name}.lvd142m"
# BEiT-3 (https://arxiv.org/abs/2208.10442): images, texts and pairs, 224 px, ImageNet mean and std
beit3_base = "timm:beit3_base_patch16_224.pt"
beit3_large = "timm:beit3_large_patch16_224.pt"
beit3_giant = "timm:beit3_giant_patch14_224.pt"
# DINOv3 (https://arxiv.org/abs/2508.10104): 1.7 billion images, ImageNet mean and std
dinov3_small = "timm:vit_small_patch16_dinov3.lvd1689m"
dinov3_base = "timm:vit_base_patch16_dinov3.lvd1689m"
dinov3_large = "timm:vit_large_patch16_dinov3.lvd1689m"
dinov3_huge_plus = "timm:vit_huge_plus_patch16_dinov3.lvd1689m"
dinov3_7b = "timm:vit_7b_patch16_dinov3.lvd1689m"
# EVA-02 (https://arxiv.org/abs/2303.11331): ImageNet-22k, and 38 million images for the large size
eva02_base = "timm:eva02_base_patch14_224.mim_in22k"
eva02_large = "timm:eva02_large_patch14_224.mim_m38m"

# Input mean and std of CLIP and EVA-02, per channel, on the 0 to 255 scale
clip_pixel_statistics = (
    [122.7709383, 116.7460125, 104.09373615],
    [68.5005327, 66.6321579, 70.32316305],
)
# Input mean and std of AugReg, per channel, on the 0 to 255 scale
augreg_pixel_statistics = [127.5, 127.5, 127.5]
