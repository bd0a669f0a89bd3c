"""Upsampling of a map by a learned patch for each of its cells.

Shapes: B batch, C input channels, D output channels, H/W height and width of the map, K the patch's
side.
"""

import torch
from torch import Tensor, nn

from vit_adapter.layers.cpu.dense import linear
from vit_adapter.ops.cpu_fast_paths import is_on


class PatchUpsampling(nn.ConvTranspose2d):
    """Transposed convolution whose stride is its kernel size: patches do not overlap.

    Each cell alone determines its patch, so this is a matrix product. It is computed as one on the
    CPU while gradients are recorded, because PyTorch's backward pass of a transposed convolution
    takes twice as long.

    Args:
        in_channels, out_channels: C and D.
        kernel_size: side K of a patch, and the factor by which the map grows.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=kernel_size)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, K * H, K * W)."""
        training_on_cpu = features.device.type == "cpu" and torch.is_grad_enabled()
        if not training_on_cpu or not is_on("patch_upsampling"):
            return super().forward(features)
        tokens = features.permute(0, 2, 3, 1)  # (B, H, W, C)
        bias = self.bias.repeat(self.kernel_size[1])
        rows = []
        for weight in self.weight.unbind(2):  # (C, D, K), of one row of every patch
            weight = weight.permute(2, 1, 0).flatten(0, 1)  # (K * D, C)
            rows.append(linear(tokens, weight, bias).unflatten(-1, (-1, self.out_channels)))
        patches = torch.stack(rows, 2)  # (B, H, K, W, K, D)
        return patches.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
