"""The neck of a detector without a feature pyramid network.

Shapes: B batch, C channels, h/w sides of a feature map.
"""

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn


class ChannelMapper(Backbone):
    """Maps each output of a backbone to the same number of channels, without mixing levels.

    Each map gets its own 1x1 convolution and a ReLU. A last level is the coarsest of these maps,
    max-pooled over 2x2 cells. As in Detectron2's FPN, outputs are called "p" and log2 of the
    stride.

    Args:
        bottom_up: the backbone.
        in_features: names of its outputs, finest first; each stride is twice the one before.
        out_channels: channels of all outputs.

    Raises:
        ValueError: there are no inputs, or their strides do not double.
    """

    def __init__(
        self, *, bottom_up: Backbone, in_features: Sequence[str], out_channels: int
    ) -> None:
        super().__init__()
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride for name in in_features]
        if not strides or strides != [strides[0] * 2**i for i in range(len(strides))]:
            raise ValueError(
                "in_features must be in the order of their strides, each twice the one before; got "
                f"{list(in_features)} with strides {strides}"
            )
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self.convs = nn.ModuleList(
            Conv2d(shapes[name].channels, out_channels, kernel_size=1, activation=F.relu_)
            for name in in_features
        )
        for conv in self.convs:
            weight_init.c2_xavier_fill(conv)
        self._out_feature_strides = {
            f"p{stride.bit_length() - 1}": stride for stride in (*strides, 2 * strides[-1])
        }
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def size_divisibility(self) -> int:
        """The multiple of pixels to which images are padded: that of the backbone."""
        return self.bottom_up.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The same, in the form that later versions of Detectron2 ask for."""
        return {"size_divisibility": self.size_divisibility}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute all levels of images (B, 3, H, W), as name -> (B, C, h, w)."""
        features = self.bottom_up(images)
        inputs = (features[name] for name in self.in_features)
        maps = [conv(level) for conv, level in zip(self.convs, inputs, strict=True)]
        # An odd last row or column is left out, except where nothing else would remain.
        is_single = min(maps[-1].shape[-2:]) == 1
        maps.append(F.max_pool2d(maps[-1], kernel_size=2, stride=2, ceil_mode=is_single))
        return dict(zip(self._out_features, maps, strict=True))
