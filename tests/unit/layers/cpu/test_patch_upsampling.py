"""Upsampling by patches gives the same numbers as a transposed convolution."""

import pytest
import torch
from torch import nn

from vit_adapter.layers import PatchUpsampling


@pytest.mark.parametrize("kernel_size", [1, 2, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_a_transposed_convolution(kernel_size: int, channels_last: bool) -> None:
    layer = PatchUpsampling(5, 4, kernel_size).double()
    plain = nn.ConvTranspose2d(5, 4, kernel_size, stride=kernel_size).double()
    plain.load_state_dict(layer.state_dict())
    features = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    results = []
    for module in (layer, plain):
        leaf = features.clone().requires_grad_()
        output = module(leaf)
        output.square().sum().backward()
        results.append([output, leaf.grad, module.weight.grad, module.bias.grad])
    torch.testing.assert_close(*results)
    with torch.no_grad():
        torch.testing.assert_close(layer(features), results[0][0])


def test_autocast_applies() -> None:
    layer = PatchUpsampling(5, 4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 5, 3, 4)).dtype == torch.bfloat16
