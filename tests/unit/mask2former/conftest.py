"""Small parts of Mask2Former."""

from collections.abc import Callable

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from vit_adapter.mask2former import (
    HungarianMatcher,
    Mask2Former,
    Mask2FormerHead,
    MaskedTransformerDecoder,
    MSDeformAttnPixelDecoder,
    SetCriterion,
)

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
WIDTH, CHANNELS, CLASSES = 64, 8, 3


class Pyramid(Backbone):
    """Four strides, each computed by one convolution of the image."""

    size_divisibility = 32

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleDict(
            {name: nn.Conv2d(3, CHANNELS, stride, stride) for name, stride in STRIDES.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: conv(images) for name, conv in self.convs.items()}


@pytest.fixture
def input_shape() -> dict[str, ShapeSpec]:
    return {name: ShapeSpec(channels=CHANNELS, stride=stride) for name, stride in STRIDES.items()}


@pytest.fixture
def make_features() -> Callable[..., dict[str, Tensor]]:
    def make(batch: int = 2, height: int = 64, width: int = 96) -> dict[str, Tensor]:
        return {
            name: torch.randn(batch, CHANNELS, -(-height // stride), -(-width // stride))
            for name, stride in STRIDES.items()
        }

    return make


@pytest.fixture
def make_pixel_decoder(
    input_shape: dict[str, ShapeSpec],
) -> Callable[..., MSDeformAttnPixelDecoder]:
    def make(**changes: object) -> MSDeformAttnPixelDecoder:
        settings = {
            "embed_dim": WIDTH,
            "mask_dim": WIDTH,
            "num_heads": 4,
            "ffn_dim": 48,
            "num_layers": 2,
        }
        return MSDeformAttnPixelDecoder(input_shape, **{**settings, **changes})

    return make


@pytest.fixture
def make_decoder() -> Callable[..., MaskedTransformerDecoder]:
    def make(**changes: object) -> MaskedTransformerDecoder:
        settings = {
            "num_classes": CLASSES,
            "num_queries": 6,
            "embed_dim": WIDTH,
            "mask_dim": WIDTH,
            "num_heads": 4,
            "ffn_dim": 48,
            "num_layers": 3,
        }
        return MaskedTransformerDecoder(**{**settings, **changes})

    return make


@pytest.fixture
def make_model(
    make_pixel_decoder: Callable[..., MSDeformAttnPixelDecoder],
    make_decoder: Callable[..., MaskedTransformerDecoder],
) -> Callable[..., Mask2Former]:
    def make(**changes: object) -> Mask2Former:
        settings = {
            "backbone": Pyramid(),
            "head": Mask2FormerHead(
                pixel_decoder=make_pixel_decoder(), transformer_decoder=make_decoder()
            ),
            "criterion": SetCriterion(
                num_classes=CLASSES, matcher=HungarianMatcher(num_points=200), num_points=200
            ),
            "pixel_mean": [127.5] * 3,
            "pixel_std": [127.5] * 3,
        }
        return Mask2Former(**{**settings, **changes})

    return make
