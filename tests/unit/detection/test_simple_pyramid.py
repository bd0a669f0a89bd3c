"""ViTDet's pyramid against plain functions, and against Detectron2's class where there is one."""

import detectron2.modeling
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor

from vit_adapter.detection import SimpleFeaturePyramid

WIDTH, CHANNELS = 16, 6


class Map(Backbone):
    """Returns the image in place of a map of stride 16."""

    size_divisibility = 32

    def __init__(self, stride: int = 16) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"res4": images}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"res4": ShapeSpec(channels=WIDTH, stride=self.stride)}


def make(norm: str = "LN") -> SimpleFeaturePyramid:
    torch.manual_seed(0)
    pyramid = SimpleFeaturePyramid(
        bottom_up=Map(), in_feature="res4", out_channels=CHANNELS, norm=norm
    ).double()
    for parameter in pyramid.parameters():
        parameter.data.normal_()
    return pyramid


def normalise(features: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """Layer norm over channels, epsilon 1e-6."""
    variance, mean = torch.var_mean(features, dim=1, correction=0, keepdim=True)
    scale, shift = (weights[f"{name}.{leaf}"][:, None, None] for leaf in ("weight", "bias"))
    return (features - mean) / (variance + 1e-6).sqrt() * scale + shift


def enlarge(features: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return F.conv_transpose2d(
        features, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2
    )


def convolve(features: Tensor, weights: dict[str, Tensor], level: str, start: int) -> Tensor:
    """The two convolutions of a level, which have the numbers ``start`` and ``start + 1``."""
    for number, padding in ((start, 0), (start + 1, 1)):
        name = f"{level}.{number}"
        features = F.conv2d(features, weights[f"{name}.weight"], padding=padding)
        features = normalise(features, weights, f"{name}.norm")
    return features


@torch.no_grad()
def test_levels() -> None:
    pyramid = make()
    features = torch.randn(2, WIDTH, 6, 4, dtype=torch.float64)
    weights = pyramid.state_dict()
    twice = enlarge(features, weights, "simfp_2.0")
    twice = F.gelu(normalise(twice, weights, "simfp_2.1"))
    expected = {
        "p2": convolve(enlarge(twice, weights, "simfp_2.3"), weights, "simfp_2", 4),
        "p3": convolve(enlarge(features, weights, "simfp_3.0"), weights, "simfp_3", 1),
        "p4": convolve(features, weights, "simfp_4", 0),
        "p5": convolve(F.max_pool2d(features, 2), weights, "simfp_5", 1),
    }
    expected["p6"] = expected["p5"][:, :, ::2, ::2]
    outputs = pyramid(features)
    assert list(outputs) == list(expected)
    for name, level in expected.items():
        torch.testing.assert_close(outputs[name], level)
    shapes = {name: (spec.channels, spec.stride) for name, spec in pyramid.output_shape().items()}
    assert shapes == {f"p{number}": (CHANNELS, 2**number) for number in range(2, 7)}
    assert pyramid.padding_constraints == {"size_divisibility": 32}


def test_convolutions_without_norm_have_biases() -> None:
    pyramid = make(norm="")
    outputs = pyramid(torch.randn(1, WIDTH, 4, 4, dtype=torch.float64))
    assert outputs["p2"].shape == (1, CHANNELS, 16, 16)
    assert pyramid.simfp_4[0].bias is not None and pyramid.simfp_4[0].norm is None


def test_only_a_map_of_stride_16() -> None:
    with pytest.raises(ValueError, match="needs an input of stride 16, but 'res4' has 8"):
        SimpleFeaturePyramid(bottom_up=Map(stride=8), in_feature="res4", out_channels=CHANNELS)


@pytest.mark.skipif(
    not hasattr(detectron2.modeling, "SimpleFeaturePyramid"),
    reason="Detectron2 0.6 does not have the class",
)
@torch.no_grad()
def test_equals_detectron2() -> None:
    pyramid = make()
    other = detectron2.modeling.SimpleFeaturePyramid(
        Map(), "res4", CHANNELS, (4.0, 2.0, 1.0, 0.5), top_block=LastLevelMaxPool(), norm="LN"
    ).double()
    other.load_state_dict(pyramid.state_dict())
    features = torch.randn(2, WIDTH, 6, 4, dtype=torch.float64)
    expected = other(features)
    for name, level in pyramid(features).items():
        torch.testing.assert_close(level, expected[name])
