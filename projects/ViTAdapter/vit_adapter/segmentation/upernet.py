"""UPerNet's head (Xiao et al., Unified Perceptual Parsing, https://arxiv.org/abs/1807.10221).

Pyramid pooling (https://arxiv.org/abs/1612.01105) on the coarsest map, a feature pyramid over all
maps, and one fused map of the finest stride. Names are those of the original's checkpoints.

Shapes: B batch, C channels of the head, h/w sides of a feature map.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from vit_adapter.layers import PoolToGrid, resize_map
from vit_adapter.segmentation.head import PixelHead, conv_norm_relu, sort_by_stride
from vit_adapter.segmentation.losses import Average


@SEM_SEG_HEADS_REGISTRY.register()
class UPerNetHead(PixelHead):
    """Scores at the stride of the finest input, for Detectron2's ``SemanticSegmentor``.

    With a batch norm, training needs at least two images per process (or several processes and a
    synchronised norm), because the coarsest pooling leaves one value per channel and image.

    Args:
        input_shape: name -> channels and stride of every map that is used.
        channels: channels C; published models use 512, or 1024 for BEiT-L.
        num_classes: number of classes.
        pool_scales: sides of the grids to which the coarsest map is pooled.
        norm: see :func:`vit_adapter.layers.build_norm`.
        dropout: see :class:`PixelHead`, also for the arguments below.
        loss_weight: weight of the loss.
        loss_average: "all" or "valid".
        ignore_value: label of pixels without a class.

    Raises:
        ValueError: there is no input, or a number is out of range.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        channels: int,
        num_classes: int,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        norm: str = "SyncBN",
        dropout: float = 0.1,
        loss_weight: float = 1.0,
        loss_average: Average = "all",
        ignore_value: int = 255,
    ) -> None:
        inputs = sort_by_stride(input_shape)
        super().__init__(
            channels=channels,
            stride=inputs[0][1].stride,
            num_classes=num_classes,
            dropout=dropout,
            loss_weight=loss_weight,
            loss_average=loss_average,
            ignore_value=ignore_value,
        )
        self.in_features = [name for name, _ in inputs]
        *fine, coarsest = [shape.channels for _, shape in inputs]
        self.psp_modules = nn.ModuleList(
            nn.Sequential(PoolToGrid(scale), conv_norm_relu(coarsest, channels, 1, norm))
            for scale in pool_scales
        )
        pooled = coarsest + len(pool_scales) * channels
        self.bottleneck = conv_norm_relu(pooled, channels, 3, norm)
        self.lateral_convs = nn.ModuleList(conv_norm_relu(n, channels, 1, norm) for n in fine)
        self.fpn_convs = nn.ModuleList(conv_norm_relu(channels, channels, 3, norm) for _ in fine)
        self.fpn_bottleneck = conv_norm_relu(len(inputs) * channels, channels, 3, norm)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.SEM_SEG_HEAD`` of a yacs config; ``CONVS_DIM`` is the number of channels."""
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {name: input_shape[name] for name in node.IN_FEATURES},
            "channels": node.CONVS_DIM,
            "num_classes": node.NUM_CLASSES,
            "norm": node.NORM,
            "loss_weight": node.LOSS_WEIGHT,
            "ignore_value": node.IGNORE_VALUE,
        }

    def layers(self, features: Mapping[str, Tensor]) -> Tensor:
        """Fuse all maps into one (B, C, h, w) of the finest stride."""
        *fine, coarsest = [features[name] for name in self.in_features]
        levels = [self._pool(coarsest)]  # coarsest first
        for feature, lateral in zip(fine[::-1], self.lateral_convs[::-1], strict=True):
            levels.append(lateral(feature) + _resize_like(levels[-1], feature))
        levels.reverse()
        outputs = [conv(level) for conv, level in zip(self.fpn_convs, levels, strict=False)]
        outputs.append(levels[-1])  # the pooled map already had its 3x3 convolution
        return self.fpn_bottleneck(
            torch.cat([_resize_like(output, outputs[0]) for output in outputs], dim=1)
        )

    def _pool(self, feature: Tensor) -> Tensor:
        """Pyramid pooling of the coarsest map, (B, C, h, w)."""
        pooled = [_resize_like(module(feature), feature) for module in self.psp_modules]
        return self.bottleneck(torch.cat([feature, *pooled], dim=1))


def _resize_like(feature: Tensor, like: Tensor) -> Tensor:
    """Resize bilinearly to the height and width of another map."""
    return resize_map(feature, (like.shape[-2], like.shape[-1]))
