"""The spatial prior module."""

import pytest
import torch
from torch import nn

from vit_adapter.backbone import SpatialPriorModule


def make_module(norm: str = "BN") -> SpatialPriorModule:
    return SpatialPriorModule(inplanes=4, embed_dim=6, norm=norm)


def test_strides_and_widths() -> None:
    stride_4, *tokens = make_module()(torch.randn(2, 3, 64, 96))
    assert stride_4.shape == (2, 6, 16, 24)
    assert [tuple(t.shape) for t in tokens] == [(2, 96, 6), (2, 24, 6), (2, 6, 6)]


def test_tokens_are_the_maps_row_by_row() -> None:
    module = make_module().eval()
    images = torch.randn(1, 3, 32, 64)
    features = module.fc2(module.conv2(module.stem(images)))
    expected = features.flatten(2).transpose(1, 2)
    torch.testing.assert_close(module(images)[1], expected)


@pytest.mark.parametrize("strides", [(8, 16, 32), (4, 8), (16,), (32, 4)])
def test_unwanted_strides_are_left_out(strides: tuple[int, ...]) -> None:
    module = make_module().eval()
    module.freeze_unused(strides)
    images = torch.randn(1, 3, 32, 32)
    outputs = module(images, strides)
    for stride, ours, theirs in zip((4, 8, 16, 32), outputs, module(images), strict=True):
        assert torch.equal(ours, theirs) if stride in strides else ours is None
    sum(output.sum() for output in outputs if output is not None).backward()
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name


@pytest.mark.parametrize("batch", [1, 2])
def test_channels_last_changes_no_gradient(batch: int) -> None:
    """Running the layers one by one uses another memory layout, but gives the same numbers."""
    module = make_module().double().train()
    images = torch.randn(batch, 3, 32, 64, dtype=torch.float64)

    def gradients(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        weighted = [(o * torch.arange(o.numel()).view(o.shape).sin()).sum() for o in outputs]
        return torch.autograd.grad(sum(weighted), list(module.parameters()))

    x1 = module.stem(images)
    x2 = module.conv2(x1)
    x3 = module.conv3(x2)
    x4 = module.conv4(x3)
    tails = [(module.fc2, x2), (module.fc3, x3), (module.fc4, x4)]
    tokens = [fc(x).flatten(2).transpose(1, 2).contiguous() for fc, x in tails]
    expected = gradients([module.fc1(x1), *tokens])
    for actual, gradient in zip(gradients(list(module(images))), expected, strict=True):
        torch.testing.assert_close(actual, gradient)


def test_convolutions_have_a_bias_only_without_norm() -> None:
    assert make_module("BN").stem[0].bias is None
    bare = make_module("")
    assert bare.stem[0].bias is not None
    assert not [m for m in bare.modules() if isinstance(m, nn.BatchNorm2d)]
