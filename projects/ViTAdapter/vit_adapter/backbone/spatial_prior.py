"""The spatial prior module: a small convolutional stem (arXiv 2205.08534, section 3.3).

Shapes: B batch, H/W image sides in pixels (multiples of 32), P inner channels, D embed dim.
"""

import torch
from torch import Tensor, nn

from vit_adapter.layers import ConvNormSequential, build_norm, map_to_tokens


class SpatialPriorModule(nn.Module):
    """Maps an image to features of strides 4, 8, 16 and 32, all of the ViT's width."""

    def __init__(self, *, inplanes: int, embed_dim: int, norm: str) -> None:
        """Make the module.

        Args:
            inplanes: channels P of the stem; the later stages have 2P, 4P and 4P.
            embed_dim: width D of the outputs.
            norm: name of the norm after every 3x3 convolution, see
                :func:`vit_adapter.layers.build_norm`.
        """
        super().__init__()
        self.stem = ConvNormSequential(
            *_conv_norm_relu(3, inplanes, stride=2, norm=norm),
            *_conv_norm_relu(inplanes, inplanes, stride=1, norm=norm),
            *_conv_norm_relu(inplanes, inplanes, stride=1, norm=norm),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
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
        self, images: Tensor, with_stride_4: bool = True
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        """Compute the priors.

        Args:
            images: (B, 3, H, W), normalised.
            with_stride_4: whether the stride-4 map is wanted.

        Returns:
            the stride-4 map (B, D, H/4, W/4), or None where it is not wanted, and the row-major
            tokens (B, h*w, D) of strides 8, 16 and 32.
        """
        # Channels-last: faster convolutions, and tokens are views of the maps.
        x1 = self.stem(images.contiguous(memory_format=torch.channels_last))
        x2 = self.conv2(x1)
        x3 = self.conv3(x2)
        x4 = self.conv4(x3)
        stride_4 = self.fc1(x1) if with_stride_4 else None
        return (
            stride_4,
            map_to_tokens(self.fc2(x2)),
            map_to_tokens(self.fc3(x3)),
            map_to_tokens(self.fc4(x4)),
        )


def _conv_norm_relu(
    in_channels: int, out_channels: int, *, stride: int, norm: str
) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=norm == ""),
        build_norm(norm, out_channels),
        nn.ReLU(inplace=True),
    ]
