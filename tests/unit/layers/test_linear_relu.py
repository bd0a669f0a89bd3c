"""A linear layer and a ReLU in one call."""

import pytest
import torch
import torch.nn.functional as F

from vit_adapter.layers import linear_relu


def check(device: str) -> None:
    features, weight, bias = (
        torch.randn(*shape, device=device) for shape in ((2, 5, 4), (3, 4), (3,))
    )
    with torch.no_grad():
        actual = linear_relu(features, weight, bias)
    torch.testing.assert_close(actual, F.relu(F.linear(features, weight, bias)))
    assert (actual == 0).any() and (actual > 0).any()


def test_equals_the_two_layers() -> None:
    check("cpu")


@pytest.mark.cuda
def test_equals_the_two_layers_on_cuda() -> None:
    check("cuda")


def test_is_one_operation_in_inference_on_cuda(fake_cuda) -> None:
    with fake_cuda:
        tensors = [torch.empty(*shape, device="cuda") for shape in ((2, 5, 4), (3, 4), (3,))]
        with torch.no_grad(), torch.profiler.profile() as profile:
            assert linear_relu(*tensors).shape == (2, 5, 3)
    assert {"aten::_addmm_activation"} <= {event.name for event in profile.events()}


def test_keeps_gradients() -> None:
    weight = torch.randn(3, 4, requires_grad=True)
    linear_relu(torch.ones(2, 4), weight, torch.ones(3)).sum().backward()
    assert weight.grad is not None
