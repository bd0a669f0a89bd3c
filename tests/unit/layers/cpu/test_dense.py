"""Linear layers computed by oneDNN: numbers, gradients and tracing are as in PyTorch."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from vit_adapter.layers import Linear, linear

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
    """Use oneDNN even where it is not faster; returns the shapes of the inputs it was given."""
    operator = torch.ops.mkldnn._linear_pointwise.default
    shapes = []

    def record(features: Tensor, *arguments) -> Tensor:
        shapes.append(features.shape)
        return operator(features, *arguments)

    monkeypatch.setattr("vit_adapter.layers.cpu.dense.is_on", lambda name: True)
    monkeypatch.setattr(torch.ops.mkldnn._linear_pointwise, "default", record)
    return shapes


def pair(bias: bool = True) -> tuple[Linear, nn.Linear]:
    """A layer, and PyTorch's layer with the same weights."""
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
def test_computes_only_needed_gradients(by_onednn) -> None:
    layer = Linear(7, 4)
    layer.weight.requires_grad_(False)
    layer(torch.randn(3, 7)).sum().backward()
    assert by_onednn == [(3, 7)]  # the input needs no gradient
    assert layer.weight.grad is None
    assert layer.bias.grad.tolist() == [3.0] * 4


@onednn
def test_keeps_only_what_gradients_need(by_onednn) -> None:
    frozen, leaf = torch.randn(4, 7), torch.randn(3, 7, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
        linear(leaf, frozen)
        linear(frozen, leaf)
    assert [tensor.data_ptr() for tensor in kept] == [frozen.data_ptr()] * 2


@onednn
@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded", "overlapping"])
def test_layouts_of_weights(layout: str, by_onednn) -> None:
    weight, bias = {
        "transposed": lambda: (torch.randn(7, 4).t(), torch.randn(4)),
        "strided": lambda: (torch.randn(4, 14)[:, ::2], torch.randn(8)[::2]),
        "expanded": lambda: (torch.randn(4, 7), torch.randn(1).expand(4)),
        "overlapping": lambda: (torch.randn(30).as_strided((4, 7), (1, 1)), torch.randn(8)[::2]),
    }[layout]()
    features = torch.randn(3, 7)
    expected = nn.functional.linear(features, weight, bias)
    torch.testing.assert_close(linear(features, weight, bias), expected)
    assert bool(by_onednn) == (layout in ("transposed", "expanded"))


@onednn
def test_forward_mode_derivatives(by_onednn) -> None:
    layer, plain = pair()
    point, tangent = torch.randn(3, 7), torch.randn(3, 7)
    for recording in (True, False):
        with forward_ad.dual_level(), torch.set_grad_enabled(recording):
            dual = forward_ad.make_dual(point, tangent)
            actual, expected = (forward_ad.unpack_dual(f(dual)).tangent for f in (layer, plain))
        torch.testing.assert_close(actual, expected)
    actual, expected = (torch.func.jvp(f, (point,), (tangent,)) for f in (layer, plain))
    torch.testing.assert_close(actual, expected)


@onednn
def test_flops_are_counted(by_onednn) -> None:
    with FlopCounterMode(display=False) as counter:
        Linear(7, 4)(torch.randn(3, 7))
    assert counter.get_total_flops() == 2 * 3 * 7 * 4


@onednn
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_respects_the_switch_of_onednn(by_onednn) -> None:
    with torch.backends.mkldnn.flags(enabled=False):
        linear(torch.randn(3, 7), torch.randn(4, 7))
    assert by_onednn == []


@onednn
def test_second_derivatives_and_vmap(by_onednn) -> None:
    layer, plain = pair()
    points = torch.randn(2, 7)
    hessians = [
        torch.autograd.functional.hessian(lambda x, f=f: f(x).pow(3).sum(), points)
        for f in (layer, plain)
    ]
    torch.testing.assert_close(*hessians)
    assert by_onednn
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


def test_compiles_on_any_processor() -> None:
    layer, features = Linear(7, 4), torch.randn(3, 7)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features), layer(features))


@onednn
def test_wrong_widths_are_named(by_onednn) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        linear(torch.randn(3, 6), torch.randn(4, 7))
