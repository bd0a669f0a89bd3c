"""The semantic branch: classes of pixels, and features for the box and mask branches.

Shapes: B batch, C channels, K classes, h/w sides of the map at the fusion stride, H/W sides of the
padded image.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from vit_adapter.segmentation.head import (
    LOSS_NAME,
    conv_norm_relu,
    init_classifier,
    sort_by_stride,
)
from vit_adapter.segmentation.losses import pixel_cross_entropy


class FusedSemanticHead(nn.Module):
    """Fuses all levels of a pyramid at one stride and predicts a class for each of its cells.

    Each level is resized bilinearly, with aligned corners, and passes a 1x1 convolution and a ReLU
    of its own. Convolutions follow their sum. Two 1x1 convolutions then give the scores and, with a
    ReLU, the embedding that :class:`SemanticFusion` reads.

    Args:
        input_shape: name -> channels and stride of every level that is used.
        num_classes: number of classes K.
        fusion_stride: stride of the level at which all others are fused, in pixels.
        conv_dim: channels C of all convolutions and of the embedding.
        num_convs: number of 3x3 convolutions.
        loss_weight: weight of the loss.
        ignore_value: label of pixels without a class.

    Raises:
        ValueError: no level has the fusion stride.
    """

    def __init__(
        self,
        *,
        input_shape: Mapping[str, ShapeSpec],
        num_classes: int,
        fusion_stride: int = 8,
        conv_dim: int = 256,
        num_convs: int = 4,
        loss_weight: float = 0.2,
        ignore_value: int = 255,
    ) -> None:
        super().__init__()
        levels = sort_by_stride(input_shape)
        strides = [shape.stride for _, shape in levels]
        if fusion_stride not in strides:
            raise ValueError(
                f"fusion_stride must be the stride of an input, one of {strides}, got "
                f"{fusion_stride}"
            )
        self.in_features = [name for name, _ in levels]
        self.fusion_level = strides.index(fusion_stride)
        self.stride = fusion_stride
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        self.lateral_convs = nn.ModuleList(
            conv_norm_relu(shape.channels, conv_dim, 1, norm="") for _, shape in levels
        )
        self.convs = nn.Sequential(
            *(conv_norm_relu(conv_dim, conv_dim, 3, norm="") for _ in range(num_convs))
        )
        self.conv_embedding = conv_norm_relu(conv_dim, conv_dim, 1, norm="")
        self.conv_logits = nn.Conv2d(conv_dim, num_classes, 1)
        init_classifier(self.conv_logits)

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute scores (B, K, h, w) and the embedding (B, C, h, w).

        Args:
            features: name -> (B, channels, height, width) of every level.
        """
        maps = [features[name] for name in self.in_features]
        size = maps[self.fusion_level].shape[-2:]
        fused = self.lateral_convs[self.fusion_level](maps[self.fusion_level])
        for level, (conv, level_map) in enumerate(zip(self.lateral_convs, maps, strict=True)):
            if level != self.fusion_level:
                resized = F.interpolate(level_map, size=size, mode="bilinear", align_corners=True)
                fused = fused + conv(resized)
        fused = self.convs(fused)
        return self.conv_logits(fused), self.conv_embedding(fused)

    def losses(self, scores: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Compute the weighted cross entropy, whose mean also counts ignored pixels.

        Args:
            scores: (B, K, h, w).
            targets: (B, H, W) int64. Only the first pixel of each cell counts, as in nearest
                resizing. Labels of stride 8 can also be given directly, as (B, h, w).

        Returns:
            ``{"loss_sem_seg": scalar}``.

        Raises:
            ValueError: the sides of the labels are not the same multiple of those of the scores.
        """
        step = targets.shape[-2] // scores.shape[-2]
        if targets.shape[-2:] != (step * scores.shape[-2], step * scores.shape[-1]):
            raise ValueError(
                f"labels of {tuple(targets.shape[-2:])} (height, width) do not fit scores of "
                f"{tuple(scores.shape[-2:])}: both sides must be the same multiple; pad the labels "
                "as the images are padded"
            )
        loss = pixel_cross_entropy(
            scores, targets[:, ::step, ::step], ignore_value=self.ignore_value, average="all"
        )
        return {LOSS_NAME: loss * self.loss_weight}
