"""The convolution of Sparse R-CNN whose kernels a proposal makes from its features.

Shapes: R regions of a batch, C channels, F hidden channels, S side of the pooled features.
"""

import torch
from torch import Tensor, nn

__all__ = ["DynamicConv"]


class DynamicConv(nn.Module):
    """Two 1x1 convolutions of each region with kernels of its own, then a projection.

    Args:
        channels: channels C of regions and proposals.
        hidden_channels: channels F between the two convolutions.
        pool_size: side S of the pooled features.
    """

    def __init__(self, *, channels: int, hidden_channels: int, pool_size: int) -> None:
        super().__init__()
        self.kernels = nn.Linear(channels, 2 * channels * hidden_channels)
        self.norm_in = nn.LayerNorm(hidden_channels)
        self.norm_out = nn.LayerNorm(channels)
        self.fc = nn.Linear(channels * pool_size**2, channels)
        self.fc_norm = nn.LayerNorm(channels)

    def forward(self, proposals: Tensor, regions: Tensor) -> Tensor:
        """Filter the features of each region.

        Args:
            proposals: (R, C), features of the proposals.
            regions: (R, C, S, S), features pooled from their boxes.

        Returns:
            (R, C).
        """
        into, out = self.kernels(proposals).chunk(2, dim=1)
        pixels = regions.flatten(2).transpose(1, 2)  # (R, S * S, C)
        hidden = torch.bmm(pixels, into.unflatten(1, (pixels.shape[2], -1)))
        hidden = self.norm_in(hidden).relu()
        filtered = torch.bmm(hidden, out.unflatten(1, (hidden.shape[2], -1)))
        filtered = self.norm_out(filtered).relu()
        return self.fc_norm(self.fc(filtered.flatten(1))).relu()
