"""The neck without a feature pyramid network."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor

from vit_adapter.detection import ChannelMapper

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class Bare(Backbone):
    """Returns the mean of the cells of each stride, in as many channels as the stride."""

    size_divisibility = 32

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pooled = {
            name: torch.nn.functional.avg_pool2d(images[:, :1], stride)
            for name, stride in STRIDES.items()
        }
        return {name: level.expand(-1, STRIDES[name], -1, -1) for name, level in pooled.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=s, stride=s) for name, s in STRIDES.items()}


def make(in_features: tuple[str, ...] = tuple(STRIDES)) -> ChannelMapper:
    torch.manual_seed(0)
    return ChannelMapper(bottom_up=Bare(), in_features=in_features, out_channels=6)


def test_levels() -> None:
    neck = make()
    images = torch.randn(2, 3, 96, 160)
    outputs = neck(images)
    shapes = neck.output_shape()
    assert {name: (spec.channels, spec.stride) for name, spec in shapes.items()} == {
        "p2": (6, 4), "p3": (6, 8), "p4": (6, 16), "p5": (6, 32), "p6": (6, 64)
    }  # fmt: skip
    for (name, level), conv, ours in zip(
        Bare()(images).items(), neck.convs, ("p2", "p3", "p4", "p5"), strict=True
    ):
        expected = torch.einsum("oc,bchw->bohw", conv.weight[..., 0, 0], level)
        torch.testing.assert_close(outputs[ours], (expected + conv.bias[:, None, None]).relu())
        assert outputs[ours].shape[-2:] == (96 // STRIDES[name], 160 // STRIDES[name])
    assert outputs["p5"].any()
    # 3 x 5 cells: the last row and column are left out
    cells = outputs["p5"][..., :2, :4].unflatten(-1, (2, 2)).unflatten(-3, (1, 2))
    assert torch.equal(outputs["p6"], cells.amax(dim=(-3, -1)))
    assert neck.size_divisibility == 32
    assert neck.padding_constraints == {"size_divisibility": 32}


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 96), (64, 32)])
def test_images_too_small_for_the_last_level(height: int, width: int) -> None:
    outputs = make()(torch.randn(1, 3, height, width))
    assert outputs["p6"].numel() > 0
    assert outputs["p6"].amax() == outputs["p5"].amax()


def test_some_of_the_outputs() -> None:
    assert list(make(("res4", "res5")).output_shape()) == ["p4", "p5", "p6"]


@pytest.mark.parametrize("in_features", [(), ("res5", "res4"), ("res2", "res4")])
def test_refuses_other_orders(in_features: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="each twice the one before"):
        make(in_features)
