"""A few convolutions on one map: the auxiliary head of UPerNet.

After Long et al., Fully Convolutional Networks (https://arxiv.org/abs/1411.4038).
"""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from vit_adapter.segmentation.head import PixelHead, conv_norm_relu
from vit_adapter.segmentation.losses import Average

_AUXILIARY_STRIDE = 16


@SEM_SEG_HEADS_REGISTRY.register()
class FCNHead(PixelHead):
    """3x3 convolutions and a classifier, for Detectron2's ``SemanticSegmentor``.

    The defaults are those of the auxiliary head in the published models.

    Args:
        input_shape: name -> channels and stride of the only map that is used.
        num_classes: number of classes.
        channels: channels of the convolutions.
        num_convs: number of convolutions, >= 1.
        norm: see :func:`vit_adapter.layers.build_norm`.
        dropout: see :class:`PixelHead`, also for the arguments below.
        loss_weight: weight of the loss.
        loss_average: "all" or "valid".
        ignore_value: label of pixels without a class.

    Raises:
        ValueError: there is not exactly one input, or a number is out of range.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        num_classes: int,
        channels: int = 256,
        num_convs: int = 1,
        norm: str = "SyncBN",
        dropout: float = 0.1,
        loss_weight: float = 0.4,
        loss_average: Average = "all",
        ignore_value: int = 255,
    ) -> None:
        if len(input_shape) != 1 or num_convs < 1:
            raise ValueError(
                "expected one input and num_convs >= 1, "
                f"got the inputs {list(input_shape)} and {num_convs}"
            )
        ((name, shape),) = input_shape.items()
        super().__init__(
            channels=channels,
            stride=shape.stride,
            num_classes=num_classes,
            dropout=dropout,
            loss_weight=loss_weight,
            loss_average=loss_average,
            ignore_value=ignore_value,
        )
        self.in_feature = name
        widths = [shape.channels] + [channels] * (num_convs - 1)
        self.convs = nn.Sequential(*(conv_norm_relu(n, channels, 3, norm) for n in widths))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.SEM_SEG_HEAD`` of a yacs config; uses the map of stride 16.

        Channels and loss weight keep their defaults, because ``CONVS_DIM`` and ``LOSS_WEIGHT``
        belong to the main head.
        """
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {
                name: input_shape[name]
                for name in node.IN_FEATURES
                if input_shape[name].stride == _AUXILIARY_STRIDE
            },
            "num_classes": node.NUM_CLASSES,
            "norm": node.NORM,
            "ignore_value": node.IGNORE_VALUE,
        }

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """Apply the convolutions, (B, C, h, w)."""
        return self.convs(features[self.in_feature])
