"""Patch kernels resized to another patch size, such as DINOv2's from 14 to 16 pixels.

Shapes: D embed dim, k/p side of the kernel in the checkpoint/model.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from timm.layers import resample_patch_embed
from torch import Tensor

from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.checkpoint.loading import ResizedEntry
from vit_adapter.checkpoint.pretrained.reader import TrunkWeights

__all__ = ["PatchResize", "fit_patch_kernel", "resize_patch_kernel"]

PatchResize = Literal["pseudo_inverse", "bilinear"]

_KERNEL = "patch_embed.proj.weight"

# A patch twice as large or small shows its content at a scale that no resized kernel can match.
_LARGEST_CHANGE = 1.5


def resize_patch_kernel(kernel: Tensor, size: int, method: PatchResize) -> Tensor:
    """Resize a kernel (D, 3, k, k) to (D, 3, p, p).

    Args:
        kernel: kernel of the patch embedding.
        size: side p in pixels.
        method: "pseudo_inverse" keeps the tokens of an image that is resized together with its
            patches as close as possible, in magnitude too (FlexiViT, arXiv 2212.08013, section
            3.4). "bilinear" is what the original's DINOv2 models started from: it resizes the
            kernel like an image, which scales the tokens by (p / k)^2.

    Raises:
        ValueError: the method is not known.
    """
    _check_method(method)
    wide = kernel.to(torch.promote_types(kernel.dtype, torch.float32))
    if method == "bilinear":
        resized = F.interpolate(wide, size=(size, size), mode="bilinear", align_corners=False)
    else:
        resized = resample_patch_embed(wide, [size, size])
    return resized.to(kernel.dtype)


def fit_patch_kernel(vit: ViTTrunk, weights: TrunkWeights, method: PatchResize) -> TrunkWeights:
    """Resize the patch kernel in ``weights`` to that of the trunk, if their sizes are similar.

    All other weights stay unchanged, and so does a kernel that fits already.

    Raises:
        ValueError: the method is not known.
    """
    _check_method(method)
    expected = vit.state_dict()
    for name, kernel in weights.state_dict.items():
        if not name.endswith(_KERNEL) or name not in expected or kernel.ndim != 4:
            continue
        found, wanted = kernel.shape[-1], expected[name].shape[-1]
        similar = max(found, wanted) < _LARGEST_CHANGE * min(found, wanted)
        if found == wanted or kernel.shape[-2] != found or not similar:
            continue
        resized = resize_patch_kernel(kernel, wanted, method)
        entry = ResizedEntry(name, tuple(kernel.shape), tuple(resized.shape))
        changed = {**weights.state_dict, name: resized}
        return TrunkWeights(changed, (*weights.resized, entry))
    return weights


def _check_method(method: str) -> None:
    if method not in get_args(PatchResize):
        raise ValueError(f"patch_resize must be one of {get_args(PatchResize)}, got {method!r}")
