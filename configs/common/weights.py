"""Public pre-trained ViT weights, for ``train.vit_checkpoint``."""

_deit = "https://dl.fbaipublicfiles.com/deit"
_augreg = "https://storage.googleapis.com/vit_models/augreg"

# DeiT (https://arxiv.org/abs/2012.12877): ImageNet-1k, 224 px, ImageNet mean and deviation
deit_tiny = f"{_deit}/deit_tiny_patch16_224-a1311bcf.pth"
deit_small = f"{_deit}/deit_small_patch16_224-cd65a155.pth"
deit_base = f"{_deit}/deit_base_patch16_224-b5f2ef4d.pth"
# AugReg (https://arxiv.org/abs/2106.10270): ImageNet-21k, then ImageNet-1k at 384 px
augreg_large = (
    f"{_augreg}/L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1"
    "--imagenet2012-steps_20k-lr_0.01-res_384.npz"
)
# Mean and deviation of AugReg's input, per channel, on the 0 to 255 scale
augreg_pixel_statistics = [127.5, 127.5, 127.5]
