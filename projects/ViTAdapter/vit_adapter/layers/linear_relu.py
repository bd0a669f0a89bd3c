"""A linear layer and a ReLU in one kernel.

Shapes: C input width, D output width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_adapter.layers.cpu.dense import linear

_HAS_FUSED = hasattr(torch, "_addmm_activation")


def linear_relu(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``relu(linear(features, weight, bias))``; on GPUs one kernel in inference.

    Args:
        features: (..., C).
        weight: (D, C).
        bias: (D,).

    Returns:
        (..., D).
    """
    fused = features.device.type == "cuda" and _HAS_FUSED
    if not fused or torch.is_grad_enabled() or torch.is_autocast_enabled("cuda"):
        return F.relu(linear(features, weight, bias))
    rows = torch._addmm_activation(bias, features.flatten(0, -2), weight.t())
    return rows.unflatten(0, features.shape[:-1])
