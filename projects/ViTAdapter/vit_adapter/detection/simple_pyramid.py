"""ViTDet's feature pyramid (arXiv 2203.16527), which Detectron2 0.6 does not have.

Shapes: B batch, C channels, H/W image sides in pixels, h/w sides of a map.
"""

from detectron2.layers import Conv2d
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from vit_adapter.layers import build_norm


class SimpleFeaturePyramid(Backbone):
    """Makes all levels from one map: transposed convolutions and a pooling, then two convolutions.

    Computes the same as Detectron2's class of this name with scale factors 4, 2, 1 and 0.5 and
    ``LastLevelMaxPool``, and names its parameters in the same way. Outputs are called "p" and log2
    of the stride, "p2" to "p6".

    Args:
        bottom_up: the backbone.
        in_feature: name of its output of stride 16.
        out_channels: channels of all outputs.
        norm: after each convolution, see :func:`vit_adapter.layers.build_norm`.

    Raises:
        ValueError: the stride of the input is not 16, or the norm is unknown.
    """

    def __init__(
        self, *, bottom_up: Backbone, in_feature: str, out_channels: int, norm: str = "LN"
    ) -> None:
        super().__init__()
        shape = bottom_up.output_shape()[in_feature]
        if shape.stride != 16:
            raise ValueError(
                f"the pyramid needs an input of stride 16, but {in_feature!r} has {shape.stride}"
            )
        self.bottom_up = bottom_up
        self.in_feature = in_feature
        width = shape.channels
        enlarge_twice = [
            nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2),
            build_norm(norm, width // 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, kernel_size=2, stride=2),
        ]
        enlarge = [nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2)]
        shrink = [nn.MaxPool2d(kernel_size=2, stride=2)]

        def level(resample: list[nn.Module], channels: int) -> nn.Sequential:
            sizes = ((channels, 1), (out_channels, 3))
            convs = [
                Conv2d(
                    in_channels,
                    out_channels,
                    kernel_size=kernel,
                    padding=kernel // 2,
                    bias=not norm,
                    norm=build_norm(norm, out_channels) if norm else None,
                )
                for in_channels, kernel in sizes
            ]
            return nn.Sequential(*resample, *convs)

        self.simfp_2 = level(enlarge_twice, width // 4)
        self.simfp_3 = level(enlarge, width // 2)
        self.simfp_4 = level([], width)
        self.simfp_5 = level(shrink, width)
        self.top_block = LastLevelMaxPool()
        self._out_feature_strides = {f"p{number}": 2**number for number in range(2, 7)}
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
        features = self.bottom_up(images)[self.in_feature]
        levels = (self.simfp_2, self.simfp_3, self.simfp_4, self.simfp_5)
        maps = [level(features) for level in levels]
        maps += self.top_block(maps[-1])
        return dict(zip(self._out_features, maps, strict=True))
