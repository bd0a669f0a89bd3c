"""Mask heads of several stages with information flow from each to the next.

Shapes: R boxes, C channels, S side of the features of a box, K classes.
"""

from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from torch import Tensor


class FlowMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head, in two steps: features that the next stage reads, and masks.

    ``layers`` and ``forward`` start from these features; see :func:`mask_features`.

    Args:
        input_shape: channels of the features of a box.
        has_predecessor: whether there is a stage before; False for the first stage.
        options: of Detectron2's head, such as ``num_classes`` and ``conv_dims``.

    Raises:
        ValueError: the last convolution before the upsampling has other channels than the input.
    """

    def __init__(self, *, input_shape: ShapeSpec, has_predecessor: bool, **options: Any) -> None:
        super().__init__(input_shape=input_shape, **options)
        channels, found = input_shape.channels, self.deconv.in_channels
        if found != channels:
            raise ValueError(
                f"conv_dims gives {found} channels before the upsampling, expected the {channels} "
                "of the input, to which the next stage adds them"
            )
        self.conv_res = None
        if has_predecessor:
            self.conv_res = Conv2d(channels, channels, kernel_size=1, activation=F.relu_)
            weight_init.c2_msra_fill(self.conv_res)

    def compute_features(self, features: Tensor, previous: Tensor | None) -> Tensor:
        """Run the convolutions before the upsampling.

        Args:
            features: (R, C, S, S), the same for all stages.
            previous: (R, C, S, S), what this method returned for the stage before; None in the
                first stage.
        """
        if previous is not None:
            features = features + self.conv_res(previous)
        for conv in self.conv_norm_relus:
            features = conv(features)
        return features

    def layers(self, features: Tensor) -> Tensor:
        """Compute logits (R, K, 2 * S, 2 * S) of the result of :meth:`compute_features`."""
        return self.predictor(self.deconv_relu(self.deconv(features)))


def mask_features(heads: Sequence[FlowMaskHead], features: Tensor) -> list[Tensor]:
    """Run the heads of successive stages, each of which reads the features of the one before.

    Training of a stage needs the heads up to its own; testing needs all of them.

    Args:
        heads: the heads of the first stages, in order.
        features: (R, C, S, S) of the boxes, the same for all stages.

    Returns:
        (R, C, S, S) of each head, for its ``layers`` or, in training, its ``forward``.
    """
    results: list[Tensor] = []
    for head in heads:
        results.append(head.compute_features(features, results[-1] if results else None))
    return results
