"""Without the switch, or without PyTorch's private names, layers use public functions."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from vit_adapter.layers import (
    PatchUpsampling,
    linear,
    normalise_map,
    scaled_dot_product_attention,
    to_fast_layout,
)
from vit_adapter.layers.cpu.softmax import softmax
from vit_adapter.ops import cpu_fast_paths, extension_info
from vit_adapter.ops.cpu_fast_paths import PRIVATE_NAMES, SWITCH

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="needs a PyTorch with oneDNN"
)
LISTED = sorted({name for names in PRIVATE_NAMES.values() for name in names})
PRIVATE_PATHS = [
    pytest.param(name, marks=needs_onednn if name == "linear" else ())
    for name in PRIVATE_NAMES
    if PRIVATE_NAMES[name]
]


def upsample(features: Tensor, weight: Tensor) -> Tensor:
    layer = PatchUpsampling(5, 4, 2)
    nn.init.ones_(layer.bias)
    return torch.func.functional_call(layer, {"weight": weight}, (features,))


CALLS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "attention": (scaled_dot_product_attention, [(1, 3, 512, 8)] * 3),
    "convolution": (to_fast_layout, [(1, 5, 4, 4)]),
    "linear": (linear, [(2, 3, 7), (4, 7), (4,)]),
    "norm": (lambda x: normalise_map(nn.BatchNorm2d(5), x), [(1, 5, 4, 4)]),
    "patch_upsampling": (upsample, [(2, 5, 3, 4), (5, 4, 2, 2)]),
    "softmax": (lambda x: softmax(x, torch.float32), [(2, 5, 3, 4)]),
}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which every fast path is on, if PyTorch has what it needs."""
    cpu_fast_paths._find_obstacle.cache_clear()
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr(cpu_fast_paths, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(cpu_fast_paths, "channels_last_trains_slowly", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    yield
    cpu_fast_paths._find_obstacle.cache_clear()


@pytest.fixture
def inputs(request: pytest.FixtureRequest) -> tuple[Callable[..., Tensor], list[Tensor]]:
    compute, shapes = CALLS[request.getfixturevalue("name")]
    return compute, [torch.randn(shape, requires_grad=True) for shape in shapes]


def gradients(output: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Gradients of a loss that depends on every number; empty if nothing was recorded."""
    return list(torch.autograd.grad(output.sin().sum(), leaves)) if output.requires_grad else []


def make_unusable(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    """Make any use of the names fail."""
    for name in names:
        monkeypatch.setattr(name, None)


def remove(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    owner, _, _ = name.rpartition(".")
    if owner.startswith("torch.ops."):  # would be looked up again
        monkeypatch.setattr(owner, SimpleNamespace())
    else:
        monkeypatch.delattr(name)


@pytest.mark.parametrize("name", CALLS)
def test_only_public_functions_are_called_when_switched_off(name, inputs, monkeypatch) -> None:
    compute, leaves = inputs
    expected = compute(*leaves)
    monkeypatch.setenv(SWITCH, "0")
    with monkeypatch.context() as patch:
        make_unusable(patch, LISTED)
        actual = compute(*leaves)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(gradients(actual, leaves), gradients(expected, leaves))


@pytest.mark.parametrize("name", PRIVATE_PATHS)
def test_private_functions_are_called_when_switched_on(name, inputs, monkeypatch) -> None:
    compute, leaves = inputs
    assert cpu_fast_paths.is_on(name)
    make_unusable(monkeypatch, LISTED)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        compute(*leaves)


@pytest.mark.parametrize("name", PRIVATE_PATHS)
@pytest.mark.parametrize("private", LISTED)
def test_missing_private_functions_are_replaced(name, private, inputs, monkeypatch) -> None:
    compute, leaves = inputs
    expected = compute(*leaves)
    cpu_fast_paths._find_obstacle.cache_clear()
    with monkeypatch.context() as patch:
        remove(patch, private)
        actual = compute(*leaves)
        state = extension_info()["cpu_fast_paths"][name]
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(gradients(actual, leaves), gradients(expected, leaves))
    assert (private in state) == (private in PRIVATE_NAMES[name])
    assert (state == "on") == (private not in PRIVATE_NAMES[name])
