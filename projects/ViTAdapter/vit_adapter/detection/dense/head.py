"""The towers that the heads of ATSS and GFL share.

Shapes: B batch, K classes, H/W grid of a level.
"""

import math
from collections.abc import Sequence

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn
from torch.nn import init

__all__ = ["DenseHead", "conv3x3"]


class DenseHead(nn.Module):
    """Towers for classes and boxes, shared by all levels, and a factor of the boxes per level.

    Args:
        in_channels: channels of the features.
        num_classes: classes K.
        num_levels: number of levels.
        box_channels: channels of the box prediction.
        conv_dims: channels of the 3x3 convolutions of a tower, each with a norm and a ReLU.
        norm: their norm, for Detectron2's ``get_norm``; "" for none.
        prior_prob: probability of each class before training.

    Raises:
        ValueError: the towers have no convolution.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_levels: int = 5,
        box_channels: int = 4,
        conv_dims: Sequence[int] = (256, 256, 256, 256),
        norm: str = "GN",
        prior_prob: float = 0.01,
    ) -> None:
        super().__init__()
        if not conv_dims:
            raise ValueError("conv_dims must have at least one entry, got none")
        self.cls_subnet = _tower(in_channels, conv_dims, norm)
        self.bbox_subnet = _tower(in_channels, conv_dims, norm)
        self.cls_score = conv3x3(conv_dims[-1], num_classes)
        init.constant_(self.cls_score.bias, -math.log((1 - prior_prob) / prior_prob))
        self.bbox_pred = conv3x3(conv_dims[-1], box_channels)
        self.scales = nn.ParameterList(torch.ones(()) for _ in range(num_levels))

    def forward(self, features: Sequence[Tensor]) -> list[list[Tensor]]:
        """Predict from features (B, C, H, W) of each level, finest first.

        Returns:
            For each kind of prediction a list with (B, channels, H, W) of each level: class logits,
            boxes, and what :meth:`predict_more` adds.

        Raises:
            ValueError: the number of levels differs from ``num_levels``.
        """
        if len(features) != len(self.scales):
            raise ValueError(
                f"expected features of {len(self.scales)} levels, got {len(features)}; num_levels "
                "of the head must be the number of levels of the pyramid"
            )
        levels = [self.predict(*level) for level in zip(features, self.scales, strict=True)]
        return [list(kind) for kind in zip(*levels, strict=True)]

    def predict(self, features: Tensor, scale: Tensor) -> list[Tensor]:
        """Predict from the features (B, C, H, W) and with the factor of one level.

        Returns:
            Class logits (B, K, H, W), boxes (B, box_channels, H, W), and what
            :meth:`predict_more` adds.
        """
        for_boxes = self.bbox_subnet(features)
        boxes = self.bbox_pred(for_boxes) * scale
        return [self.cls_score(self.cls_subnet(features)), boxes, *self.predict_more(for_boxes)]

    def predict_more(self, for_boxes: Tensor) -> list[Tensor]:
        """Further predictions from the output (B, C, H, W) of the tower for boxes."""
        return []


def conv3x3(in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Conv2d:
    """A 3x3 convolution with small random weights and bias 0, as dense heads start."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
    init.normal_(conv.weight, std=0.01)
    if bias:
        init.zeros_(conv.bias)
    return conv


def _tower(in_channels: int, conv_dims: Sequence[int], norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip((in_channels, *conv_dims), conv_dims, strict=False):
        layers.append(conv3x3(before, after, bias=not norm))
        layers += [get_norm(norm, after)] if norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
