"""The spatial prior module: a small convolutional stem (arXiv 2205.08534, section 3.3).

Shapes: B batch, C image channels, H/W image sides in pixels (multiples of 32), P inner channels,
D embed dim.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from vit_adapter.layers import ConvNormSequential, build_norm, map_to_tokens, to_fast_layout


class SpatialPriorModule(nn.Module):
    """Maps an image to features of strides 4, 8, 16 and 32, all of the ViT's width.

    Args:
        inplanes: channels P of the stem; the later stages have 2P, 4P and 4P.
        embed_dim: width D of the outputs.
        norm: name of the norm after every 3x3 convolution, see
            :func:`vit_adapter.layers.build_norm`.
        in_channels: channels C of the images.
    """

    def __init__(self, *, inplanes: int, embed_dim: int, norm: str, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = ConvNormSequential(
            *_conv_norm_relu(in_channels, inplanes, stride=2, norm=norm),
            *_conv_norm_relu(inplanes, inplanes, stride=1, norm=norm),
            *_conv_norm_relu(inplanes, inplanes, stride=1, norm=norm),
            _ChannelsLastPool(kernel_size=3, stride=2, padding=1),
        )
        self.conv2 = ConvNormSequential(
            *_conv_norm_relu(inplanes, 2 * inplanes, stride=2, norm=norm)
        )
        self.conv3 = ConvNormSequential(
            *_conv_norm_relu(2 * inplanes, 4 * inplanes, stride=2, norm=norm)
        )
        self.conv4 = ConvNormSequential(
            *_conv_norm_relu(4 * inplanes, 4 * inplanes, stride=2, norm=norm)
        )
        self.fc1 = nn.Conv2d(inplanes, embed_dim, 1)
        self.fc2 = nn.Conv2d(2 * inplanes, embed_dim, 1)
        self.fc3 = nn.Conv2d(4 * inplanes, embed_dim, 1)
        self.fc4 = nn.Conv2d(4 * inplanes, embed_dim, 1)

    def forward(
        self, images: Tensor, strides: Collection[int] = (4, 8, 16, 32)
    ) -> tuple[Tensor | None, ...]:
        """Compute the priors.

        Args:
            images: (B, C, H, W), normalised.
            strides: those of the wanted outputs.

        Returns:
            The stride-4 map (B, D, H/4, W/4) and the row-major tokens (B, h*w, D) of strides 8, 16
            and 32; None for each output that is not wanted.
        """
        # Channels-last makes convolutions faster, and tokens are then views of the maps.
        features = to_fast_layout(images.contiguous(memory_format=torch.channels_last))
        maps = []
        for stride, stage, project in self._stages():
            if stride <= max(strides):
                features = stage(features)
            maps.append(project(features) if stride in strides else None)
        return (maps[0], *(None if level is None else map_to_tokens(level) for level in maps[1:]))

    def freeze_unused(self, strides: Collection[int]) -> None:
        """Freeze what :meth:`forward` does not run for these strides."""
        for stride, stage, project in self._stages():
            stage.requires_grad_(stride <= max(strides))
            project.requires_grad_(stride in strides)

    def _stages(self) -> tuple[tuple[int, nn.Module, nn.Module], ...]:
        """Stride, convolutions and projection of each output, finest first."""
        return (
            (4, self.stem, self.fc1),
            (8, self.conv2, self.fc2),
            (16, self.conv3, self.fc3),
            (32, self.conv4, self.fc4),
        )


class _ChannelsLastPool(nn.MaxPool2d):
    """Max pooling of channels-last maps; of others it takes five times as long."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.contiguous(memory_format=torch.channels_last))


def _conv_norm_relu(
    in_channels: int, out_channels: int, *, stride: int, norm: str
) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=norm == ""),
        build_norm(norm, out_channels),
        nn.ReLU(inplace=True),
    ]
