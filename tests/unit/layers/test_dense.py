"""Linear layers by oneDNN: the same numbers, gradients and ways to be traced as PyTorch's own."""

import copy

import pytest
import torch
from torch import Tensor, nn

from vit_adapter.layers import Linear, linear
from vit_adapter.layers.dense import _onednn_is_faster

onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="needs a PyTorch with oneDNN"
)
INPUTS = {
    "rows": lambda: torch.randn(3, 7),
    "tokens": lambda: torch.randn(2, 5, 7),
    "one row": lambda: torch.randn(7),
    "no rows": lambda: torch.randn(0, 7),
    "strided": lambda: torch.randn(4, 14)[:, ::2],
    "transposed": lambda: torch.randn(7, 3).t(),
    "expanded": lambda: torch.randn(2, 7).expand(3, 2, 7),
}


@pytest.fixture
def by_onednn(monkeypatch) -> list[torch.Size]:
    """Let oneDNN compute, even where it is not faster; the shapes of what it computed."""
    operator = torch.ops.mkldnn._linear_pointwise.default
    shapes = []

    def record(features: Tensor, *arguments) -> Tensor:
        shapes.append(features.shape)
        return operator(features, *arguments)

    monkeypatch.setattr("vit_adapter.layers.dense._onednn_is_faster", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn._linear_pointwise, "default", record)
    return shapes


def pair(bias: bool = True) -> tuple[Linear, nn.Linear]:
    """A layer, and PyTorch's with the same weights."""
    layer, plain = Linear(7, 4, bias=bias), nn.Linear(7, 4, bias=bias)
    plain.load_state_dict(layer.state_dict())
    return layer, plain


@onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
def test_equals_pytorch(make, bias: bool, by_onednn) -> None:
    features = make()
    results = []
    for layer in pair(bias):
        leaf = features.detach().requires_grad_()
        output = layer(leaf)
        leaves = (leaf, *layer.parameters())
        for gradient in (torch.linspace(-1, 1, output.numel()).view_as(output), torch.ones(())):
            given = gradient.expand_as(output)
            results.append(torch.autograd.grad(output, leaves, given, retain_graph=True))
        with torch.no_grad():
            results.append([output, layer(features)])
    torch.testing.assert_close(results[:3], results[3:])
    assert bool(by_onednn) == (features.numel() > 0)


@onednn
def test_computes_only_gradients_that_are_wanted(by_onednn) -> None:
    layer = Linear(7, 4)
    layer.weight.requires_grad_(False)
    layer(torch.randn(3, 7)).sum().backward()
    assert by_onednn == [(3, 7)]  # the input needs no gradient
    assert layer.weight.grad is None
    assert layer.bias.grad.tolist() == [3.0] * 4


@onednn
def test_second_derivatives_and_vmap(by_onednn) -> None:
    layer, plain = pair()
    points = torch.randn(2, 7)
    hessians = [
        torch.autograd.functional.hessian(lambda x, f=f: f(x).pow(3).sum(), points)
        for f in (layer, plain)
    ]
    torch.testing.assert_close(*hessians)
    batches = torch.randn(3, 2, 7)
    gradients = [
        torch.func.vmap(torch.func.grad(lambda x, f=f: f(x).pow(3).sum()))(batches)
        for f in (layer, plain)
    ]
    torch.testing.assert_close(*gradients)


@onednn
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_traces_and_other_dtypes_are_left_to_pytorch(by_onednn) -> None:
    layer, plain = pair()
    features = torch.randn(3, 7)
    expected = plain(features)
    with torch.no_grad():
        traced = torch.jit.trace(copy.deepcopy(layer), features, check_trace=False)
    exported = torch.export.export(layer, (features,)).module()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for run in (traced, exported, compiled):
        torch.testing.assert_close(run(features), expected)
    torch.testing.assert_close(copy.deepcopy(layer).double()(features.double()).float(), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(features), plain(features))
    assert by_onednn == []


@onednn
def test_wrong_widths_are_named(by_onednn) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        linear(torch.randn(3, 6), torch.randn(4, 7))


@pytest.mark.parametrize("capability", ["AVX512", "AVX2", "DEFAULT"])
@pytest.mark.parametrize("vendor", ["AuthenticAMD", "GenuineIntel"])
def test_onednn_is_for_amd_with_avx_512(monkeypatch, capability: str, vendor: str) -> None:
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: f"vendor_id\t: {vendor}\n")
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: True)
    chosen = _onednn_is_faster.__wrapped__()
    assert chosen == ((vendor, capability) == ("AuthenticAMD", "AVX512"))
