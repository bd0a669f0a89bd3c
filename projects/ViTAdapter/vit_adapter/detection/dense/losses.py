"""Losses of dense detectors, per element; the detectors weight and sum them.

Shapes: N anchors, K classes, R largest distance in strides.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["distribution_focal_loss", "quality_focal_loss"]


def quality_focal_loss(
    logits: Tensor, labels: Tensor, quality: Tensor, *, beta: float = 2.0
) -> Tensor:
    """Quality focal loss (arXiv 2006.04388, equation 5), summed over the classes.

    Args:
        logits: (N, K).
        labels: (N,), class of each anchor; K for background.
        quality: (N,), target of the anchor's own class, from 0 to 1: the IoU of its box. All other
            targets are 0.
        beta: exponent of the distance between probability and target.

    Returns:
        (N,).
    """
    targets = torch.zeros_like(logits)
    positive = (labels < logits.shape[1]).nonzero()[:, 0]
    targets[positive, labels[positive]] = quality[positive].to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (entropy * (logits.sigmoid() - targets).abs().pow(beta)).sum(1)


def distribution_focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Distribution focal loss (arXiv 2006.04388, equation 6).

    Args:
        logits: (N, R + 1), of the distances 0 to R.
        targets: (N,), distances from 0 to less than R. The two whole numbers around a target share
            its weight.

    Returns:
        (N,).
    """
    lower = targets.long()
    share = targets - lower
    below = F.cross_entropy(logits, lower, reduction="none")
    above = F.cross_entropy(logits, lower + 1, reduction="none")
    return below * (1 - share) + above * share
