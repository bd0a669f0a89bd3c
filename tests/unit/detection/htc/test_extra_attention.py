"""The attention before the pyramid."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN, Backbone
from torch import Tensor

from vit_adapter.detection.htc import ExtraAttention


class Maps(Backbone):
    """Two maps of noise."""

    size_divisibility = 32

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        batch, _, height, width = images.shape
        sizes = {"res4": (height // 16, width // 16), "res5": (height // 32, width // 32)}
        return {name: torch.randn(batch, self.channels, *size) for name, size in sizes.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        strides = {"res4": 16, "res5": 32}
        return {name: ShapeSpec(channels=self.channels, stride=s) for name, s in strides.items()}


def test_has_the_parameters_of_the_published_models() -> None:
    with torch.device("meta"):
        neck = ExtraAttention(bottom_up=Maps(1024))
    assert sum(param.numel() for param in neck.parameters()) == 12_598_272


def test_belongs_between_backbone_and_pyramid() -> None:
    neck = ExtraAttention(bottom_up=Maps(64))
    pyramid = FPN(neck, ["res4", "res5"], out_channels=8)
    outputs = pyramid(torch.randn(2, 3, 64, 96))
    assert {name: tuple(level.shape) for name, level in outputs.items()} == {
        "p4": (2, 8, 4, 6), "p5": (2, 8, 2, 3)
    }  # fmt: skip
    assert neck.size_divisibility == 32
    assert neck.padding_constraints == {"size_divisibility": 32}


def test_initial_weights() -> None:
    torch.manual_seed(0)
    block = ExtraAttention(bottom_up=Maps(64)).block
    for linear in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not linear.bias.any()


def test_whole_branches_are_dropped_in_training_only() -> None:
    torch.manual_seed(0)
    neck = ExtraAttention(bottom_up=Maps(64), drop_path_rate=0.9)
    tokens = torch.randn(64, 6, 64)
    unchanged = (neck.block(tokens) == tokens).all(dim=(1, 2)).float().mean()
    assert 0.6 < unchanged < 0.95  # 0.81 are expected
    assert not (neck.eval().block(tokens) == tokens).all(dim=(1, 2)).any()


@pytest.mark.parametrize("options", [{"num_heads": 7}, {"num_heads": 0}, {"drop_path_rate": 1.0}])
def test_refuses_other_numbers(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must divide the 64 channels of 'res5'"):
        ExtraAttention(bottom_up=Maps(64), **options)


def test_recomputed_activations_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    maps = Maps(64)
    fixed = maps(torch.randn(2, 3, 64, 96))
    fixed["res5"].requires_grad_()
    maps.forward = lambda images: fixed
    gradients = []
    for use_checkpoint in (False, True):
        torch.manual_seed(1)
        neck = ExtraAttention(bottom_up=maps, drop_path_rate=0.3, use_checkpoint=use_checkpoint)
        calls = []
        neck.block.norm1.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        output = neck(torch.zeros(2, 3, 64, 96))["res5"]
        gradients.append(torch.autograd.grad(output.square().sum(), fixed["res5"])[0])
        assert len(calls) == 1 + use_checkpoint
    torch.testing.assert_close(*gradients)
