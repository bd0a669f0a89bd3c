"""The layout in which convolutions train fastest.

oneDNN's AVX2 code takes up to four times as long for the weight gradient of a 3x3 convolution if
the maps are channels-last. Outputs and gradients of inputs take about equally long in both layouts.
"""

import torch
from torch import Tensor

from vit_adapter.layers.cpu.eager import is_observed, is_plain
from vit_adapter.ops.cpu_fast_paths import is_on


def to_fast_layout(features: Tensor) -> Tensor:
    """Return a map (B, C, H, W) in the layout in which convolutions of it train fastest.

    It is contiguous where the fast path is on and gradients are recorded, and as given elsewhere.
    """
    trains_on_cpu = features.device.type == "cpu" and torch.is_grad_enabled()
    if trains_on_cpu and is_on("convolution") and not is_observed() and is_plain(features):
        return features.contiguous()
    return features
