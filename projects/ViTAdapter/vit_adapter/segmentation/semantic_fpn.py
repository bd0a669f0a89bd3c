"""The head of Semantic FPN (Panoptic Feature Pyramid Networks, https://arxiv.org/abs/1901.02446).

This is Detectron2's head with the three differences of the published models: dropout before the
classifier, the mean of the loss, and the initial weights of the classifier.
"""

from collections.abc import Mapping
from functools import partial

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor, nn

from vit_adapter.layers import build_norm
from vit_adapter.segmentation.head import LOSS_NAME, init_classifier, require_targets
from vit_adapter.segmentation.losses import AVERAGES, Average, pixel_cross_entropy


@SEM_SEG_HEADS_REGISTRY.register()
class SemanticFPNHead(SemSegFPNHead):
    """Convolves and upsamples each level of a pyramid to one stride, and classifies the sum.

    Args:
        input_shape: name -> channels and stride of every level that is used.
        num_classes: number of classes.
        conv_dims: channels of the convolutions.
        common_stride: stride in pixels of the map that is classified.
        norm: see :func:`vit_adapter.layers.build_norm`.
        dropout: see :class:`vit_adapter.segmentation.head.PixelHead`, also for the arguments below.
        loss_weight: weight of the loss.
        loss_average: "all" or "valid".
        ignore_value: label of pixels without a class.

    Raises:
        ValueError: there is no input, or the norm or ``loss_average`` is unknown.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int = 128,
        common_stride: int = 4,
        norm: str = "SyncBN",
        dropout: float = 0.1,
        loss_weight: float = 1.0,
        loss_average: Average = "all",
        ignore_value: int = 255,
    ) -> None:
        if loss_average not in AVERAGES:
            raise ValueError(f"loss_average must be one of {AVERAGES}, got {loss_average!r}")
        # By keyword: Detectron2 mistakes a leading OmegaConf mapping for a whole config.
        super().__init__(
            input_shape=input_shape,
            num_classes=num_classes,
            conv_dims=conv_dims,
            common_stride=common_stride,
            loss_weight=loss_weight,
            norm=partial(build_norm, norm) if norm else "",
            ignore_value=ignore_value,
        )
        self.loss_average = loss_average
        self.dropout = nn.Dropout2d(dropout)
        init_classifier(self.predictor)

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """Compute scores (B, K, h, w) at the common stride, in float32 or wider."""
        levels = zip(self.in_features, self.scale_heads, strict=True)
        maps = (head(features[name]) for name, head in levels)
        fused = next(maps)
        for level in maps:
            fused = fused + level
        scores = self.predictor(self.dropout(fused))
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def losses(self, predictions: Tensor, targets: Tensor | None) -> dict[str, Tensor]:
        """Compute the weighted loss of scores (B, K, h, w) against labels (B, H, W)."""
        loss = pixel_cross_entropy(
            predictions,
            require_targets(targets),
            ignore_value=self.ignore_value,
            average=self.loss_average,
        )
        return {LOSS_NAME: loss * self.loss_weight}
