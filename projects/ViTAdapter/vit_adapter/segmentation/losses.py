"""The loss of the per-pixel heads.

Shapes: B batch, K classes, h/w sides of a map of scores, H/W sides of the labels.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vit_adapter.layers.loss_count import loss_divisor

Average = Literal["all", "valid"]
AVERAGES = ("all", "valid")


def pixel_cross_entropy(
    logits: Tensor, targets: Tensor, *, ignore_value: int = 255, average: Average = "all"
) -> Tensor:
    """Cross entropy between upsampled scores and the labels of all pixels.

    Ignored pixels add nothing to the sum. With ``"all"`` they still count in the mean, as in the
    training of the published models: the more pixels of a batch are ignored, the smaller its loss.
    The mean over ``"valid"`` pixels is the usual one. A batch without valid pixels has loss 0.

    Args:
        logits: (B, K, h, w), resized bilinearly (``align_corners=False``) to the size of the
            labels; the loss is computed in float32 or wider.
        targets: (B, H, W) int64, from 0 to K - 1, or ``ignore_value``.
        ignore_value: label of pixels without a class.
        average: "all" or "valid".

    Returns:
        Scalar, >= 0.

    Raises:
        ValueError: ``average`` is unknown, or the shapes do not fit.
    """
    if average not in AVERAGES:
        raise ValueError(f"average must be one of {AVERAGES}, got {average!r}")
    if logits.ndim != 4 or targets.ndim != 3 or len(logits) != len(targets):
        raise ValueError(
            "expected scores (B, K, h, w) and labels (B, H, W), "
            f"got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    logits = logits.float() if logits.itemsize < 4 else logits
    logits = F.interpolate(logits, size=targets.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, targets, ignore_index=ignore_value, reduction="sum")
    if average == "all":
        count = torch.full((), targets.numel(), device=targets.device)
    else:
        count = (targets != ignore_value).sum()
    return total / loss_divisor(count)
