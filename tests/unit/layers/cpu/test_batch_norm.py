"""Batch norm with correct gradients, whether or not fast paths are switched on."""

import pytest
import torch
from torch import Tensor, nn

from vit_adapter.layers.cpu.batch_norm import normalise_cells
from vit_adapter.layers.norm import normalise_map
from vit_adapter.ops.cpu_fast_paths import SWITCH


def make_map(*, of_tokens: bool) -> Tensor:
    """One image (1, C, H, W), with the strides of tokens or of a contiguous map."""
    features = torch.randn(1, 12, 32, dtype=torch.float64).transpose(1, 2).unflatten(2, (3, 4))
    return features if of_tokens else features.contiguous()


def derive(compute, norm: nn.Module, features: Tensor, gradient: Tensor) -> list[Tensor]:
    """The output, and the gradients of the features, the weight and the bias."""
    leaf = features.detach().requires_grad_()
    output = compute(norm, leaf)
    return [output, *torch.autograd.grad(output, (leaf, norm.weight, norm.bias), gradient)]


@pytest.mark.parametrize("switch", ["0", "1"])
@pytest.mark.parametrize("of_tokens", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("compute", [normalise_cells, normalise_map])
def test_gradients_of_a_single_image(compute, of_tokens, switch: str, monkeypatch) -> None:
    monkeypatch.setenv(SWITCH, switch)
    norm = nn.BatchNorm2d(32).double()
    features, gradient = (make_map(of_tokens=choice) for choice in of_tokens)
    expected = derive(lambda norm, x: norm(x), norm, features.contiguous(), gradient.contiguous())
    torch.testing.assert_close(derive(compute, norm, features, gradient), expected)
