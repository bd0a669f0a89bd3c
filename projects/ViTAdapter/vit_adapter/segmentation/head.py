"""What per-pixel heads share: classifier, loss, and the protocol of ``SemanticSegmentor``.

Shapes: B batch, C channels, K classes, h/w sides of a feature map, H/W sides of the padded image.
"""

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping

import fvcore.nn.weight_init as weight_init
from detectron2.layers import Conv2d, ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F

from vit_adapter.layers import build_norm
from vit_adapter.segmentation.losses import AVERAGES, Average, pixel_cross_entropy

LOSS_NAME = "loss_sem_seg"


class PixelHead(nn.Module, metaclass=ABCMeta):
    """A head that classifies each position of a feature map, which subclasses compute.

    Args:
        channels: channels C of the map that is classified.
        stride: stride of this map in pixels.
        num_classes: number of classes K, >= 1.
        dropout: probability that a whole channel is dropped, in [0, 1).
        loss_weight: weight of the loss.
        loss_average: see :func:`pixel_cross_entropy`.
        ignore_value: label of pixels without a class; ``SemanticSegmentor`` pads labels with it.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        *,
        channels: int,
        stride: int,
        num_classes: int,
        dropout: float,
        loss_weight: float,
        loss_average: Average,
        ignore_value: int,
    ) -> None:
        super().__init__()
        if num_classes < 1 or not 0.0 <= dropout < 1.0:
            raise ValueError(
                f"num_classes must be >= 1 and dropout in [0, 1), got {num_classes} and {dropout}"
            )
        if loss_average not in AVERAGES:
            raise ValueError(f"loss_average must be one of {AVERAGES}, got {loss_average!r}")
        self.stride = stride
        self.loss_weight = loss_weight
        self.loss_average = loss_average
        self.ignore_value = ignore_value
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        init_classifier(self.conv_seg)

    @abstractmethod
    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """Compute the map (B, C, H / stride, W / stride) that is classified."""

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Compute the loss in training, and the scores otherwise.

        Args:
            features: name -> (B, C, h, w).
            targets: (B, H, W) int64; used only in training.

        Returns:
            ``(None, {"loss_sem_seg": scalar})`` in training, ``(scores (B, K, H, W), {})``
            otherwise.

        Raises:
            ValueError: there are no targets in training.
        """
        logits = self.conv_seg(self.dropout(self.layers(features)))
        if self.training:
            return None, {LOSS_NAME: self.losses(logits, targets)}
        return upsample(logits, self.stride), {}

    def losses(self, logits: Tensor, targets: Tensor | None) -> Tensor:
        """Compute the weighted loss of scores (B, K, h, w)."""
        return self.loss_weight * pixel_cross_entropy(
            logits,
            require_targets(targets),
            ignore_value=self.ignore_value,
            average=self.loss_average,
        )


def require_targets(targets: Tensor | None) -> Tensor:
    """Return the targets, or raise a ValueError if there are none."""
    if targets is None:
        raise ValueError(
            'training needs labels, but the batch has no "sem_seg"; use a mapper that loads them'
        )
    return targets


def upsample(logits: Tensor, stride: int) -> Tensor:
    """Resize scores at a stride to the image: (B, K, h, w) -> (B, K, h * stride, w * stride)."""
    return F.interpolate(logits.float(), scale_factor=stride, mode="bilinear", align_corners=False)


def init_classifier(conv: nn.Conv2d) -> None:
    """Initialise so that all classes start about equally likely."""
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)


def conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int, norm: str) -> Conv2d:
    """Build a size-preserving convolution with a norm (or a bias if there is none) and a ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd.
        norm: see :func:`vit_adapter.layers.build_norm`.
    """
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=build_norm(norm, out_channels) if norm else None,
        activation=F.relu_,  # in place: maps of stride 4 take most of a head's memory
    )
    weight_init.c2_msra_fill(conv)
    return conv


def sort_by_stride(input_shape: Mapping[str, ShapeSpec]) -> list[tuple[str, ShapeSpec]]:
    """Return names and shapes of feature maps, finest first.

    Raises:
        ValueError: there are none.
    """
    if not input_shape:
        raise ValueError(
            "input_shape is empty, expected name -> ShapeSpec with channels and stride"
        )
    return sorted(input_shape.items(), key=lambda item: item[1].stride)
