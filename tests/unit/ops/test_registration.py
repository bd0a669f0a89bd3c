"""The operators: gradients, captured graphs, vmap, and results that do not depend on threads."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
import torch
from torch.autograd import forward_ad

from vit_adapter.ops import ms_deform_attn
from vit_adapter.ops.exporting import exporting
from vit_adapter.ops.registration import ms_deform_attn_op

BACKWARD = torch.ops.vit_adapter.ms_deform_attn_backward.default
FLAT_SHAPES = [6, 5, 3, 2]


class Model(torch.nn.Module):
    """The operator between two others, for graph capture."""

    def forward(self, value, locations, weights):
        return ms_deform_attn(value.sin(), [(6, 5), (3, 2)], locations, weights).cos()


@pytest.fixture
def tensors(sample_inputs, kernel_device) -> list[torch.Tensor]:
    value, _, locations, weights = sample_inputs().to(torch.float32, kernel_device)
    return [tensor.requires_grad_() for tensor in (value, locations, weights)]


@pytest.fixture
def num_threads() -> Iterator[None]:
    """Restores the number of threads after a test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shapes", [((6, 5), (3, 2)), ((1, 1), (1, 3), (2, 1))])
def test_gradcheck(shapes, sample_inputs, kernel_device):
    value, shapes, locations, weights = sample_inputs(
        batch=1, queries=3, heads=2, dim=5, points=2, shapes=shapes
    ).to(torch.float64, kernel_device)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    flat = [side for shape in shapes for side in shape]

    def function(value, locations, weights):
        return ms_deform_attn_op(value, flat, locations, weights)

    # The order of atomic additions on CUDA varies.
    nondet_tol = 0.0 if kernel_device.type == "cpu" else 1e-12
    assert torch.autograd.gradcheck(function, leaves, nondet_tol=nondet_tol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_opcheck(dtype, sample_inputs, kernel_device):
    value, _, locations, weights = sample_inputs().to(dtype, kernel_device)
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    torch.library.opcheck(ms_deform_attn_op, (leaves[0], FLAT_SHAPES, *leaves[1:]))


def test_opcheck_of_backward(tensors):
    value, locations, weights = (tensor.detach() for tensor in tensors)
    grad_output = torch.randn(2, 7, 24).to(value)
    torch.library.opcheck(BACKWARD, (grad_output, value, FLAT_SHAPES, locations, weights))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(dynamic, tensors):
    model = Model()
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    expected = torch.autograd.grad(model(*tensors).sum(), tensors)
    actual = torch.autograd.grad(compiled(*tensors).sum(), tensors)
    torch.testing.assert_close(actual, expected)


def test_compiles_with_shapes_that_change(sample_inputs, kernel_device):
    compiled = torch.compile(ms_deform_attn, fullgraph=True, dynamic=True, backend="aot_eager")
    for shapes in (((6, 5), (3, 2)), ((8, 4), (4, 2)), ((9, 7), (2, 3))):
        inputs = sample_inputs(shapes=shapes).to(torch.float32, kernel_device)
        torch.testing.assert_close(compiled(*inputs), ms_deform_attn(*inputs))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiles_with_inductor_under_autocast(tensors):
    model = Model()
    compiled = torch.compile(model, fullgraph=True)
    with torch.autocast(tensors[0].device.type, torch.bfloat16):
        actual, expected = compiled(*tensors), model(*tensors)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("strict", [False, True])
def test_exports_as_one_operator(strict, tensors):
    tensors = tuple(tensor.detach() for tensor in tensors)
    program = torch.export.export(Model(), tensors, strict=strict)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count(ms_deform_attn_op) == 1
    torch.testing.assert_close(program.module()(*tensors), Model()(*tensors))


def test_exports_as_plain_operations(tensors):
    tensors = tuple(tensor.detach() for tensor in tensors)
    with exporting():
        program = torch.export.export(Model(), tensors, strict=False)
    targets = " ".join(str(node.target) for node in program.graph.nodes)
    assert "aten.index_select" in targets
    assert not any(name in targets for name in ("vit_adapter", "grid_sample", "embedding_bag"))
    torch.testing.assert_close(program.module()(*tensors), Model()(*tensors))


@pytest.mark.skipif(not hasattr(torch.library, "register_vmap"), reason="needs torch >= 2.5")
def test_vmap_folds_into_the_batch(sample_inputs, kernel_device):
    value, shapes, locations, weights = sample_inputs(batch=6).to(torch.float32, kernel_device)
    stacked_values = value.unflatten(0, (3, 2))
    stacked_weights = weights.unflatten(0, (3, 2)).movedim(0, -1)
    mapped = torch.func.vmap(
        lambda value, weights: ms_deform_attn(value, shapes, locations[:2], weights),
        in_dims=(0, -1),
    )(stacked_values, stacked_weights)
    for i in range(3):
        one = ms_deform_attn(stacked_values[i], shapes, locations[:2], stacked_weights[..., i])
        torch.testing.assert_close(mapped[i], one)


def test_several_gradients_at_once(tensors):
    output = Model()(*tensors)
    directions = torch.randn(3, *output.shape).to(output)
    together = torch.autograd.grad(
        output, tensors, directions, retain_graph=True, is_grads_batched=True
    )
    for i in range(3):
        alone = torch.autograd.grad(output, tensors, directions[i], retain_graph=True)
        torch.testing.assert_close([gradient[i] for gradient in together], list(alone))


def test_second_derivative_is_refused(tensors):
    output = Model()(*tensors)
    (gradient,) = torch.autograd.grad(output.sum(), tensors[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once only.*VIT_ADAPTER_FORCE_REFERENCE=1"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [32, 20])
def test_threads_change_no_bit(dtype, dim, sample_inputs, num_threads, kernel_device):
    if kernel_device.type == "cuda":
        pytest.skip("threads are the CPU's")
    sizes = {"queries": 301, "dim": dim, "shapes": ((20, 17), (10, 9), (5, 5))}
    value, shapes, locations, weights = sample_inputs(**sizes).to(dtype)
    flat = [side for shape in shapes for side in shape]
    grad_output = torch.randn(2, 301, 3 * dim).to(dtype)
    results = []
    for threads in (1, 2, 3, 5, 1):
        torch.set_num_threads(threads)
        output = ms_deform_attn_op(value, flat, locations, weights)
        gradients = BACKWARD(grad_output, value, flat, locations, weights)
        results.append((output, *gradients))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_deterministic_backward_on_cuda(dtype, sample_inputs, output_and_gradients):
    inputs = sample_inputs(queries=301, dim=32, shapes=((20, 17), (5, 5))).to(dtype, "cuda")
    grad_output = torch.randn(2, 301, 96, dtype=torch.float64)
    expected = output_and_gradients(ms_deform_attn, inputs, grad_output)
    torch.use_deterministic_algorithms(True)
    try:
        runs = [output_and_gradients(ms_deform_attn, inputs, grad_output) for _ in range(3)]
    finally:
        torch.use_deterministic_algorithms(False)
    for run in runs:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(runs[0], expected, atol=tolerance, rtol=tolerance)


def test_operator_itself_checks_its_inputs(tensors):
    value, locations, weights = (tensor.detach() for tensor in tensors)
    with pytest.raises(ValueError, match=r"must hold \(H, W\) of every level, got \[6, 5, 6\]"):
        ms_deform_attn_op(value, [6, 5, 6], locations, weights)
    with pytest.raises(ValueError, match=r"at most 2\^29 tokens in all, got \[\(32768, 16385\)\]"):
        ms_deform_attn_op(value, [2**15, 2**14 + 1], locations, weights)
    with pytest.raises(ValueError, match="must be float32 .* torch.bfloat16, got torch.float16"):
        ms_deform_attn_op(value.bfloat16(), FLAT_SHAPES, locations.half(), weights)
    with pytest.raises(ValueError, match=r"grad_output must be \[2, 7, 24\] of torch.float32"):
        BACKWARD(torch.zeros(2, 7, 8).to(value), value, FLAT_SHAPES, locations, weights)


def test_fake_tensors_are_checked_too(tensors):
    value, locations, weights = (tensor.detach().to("meta") for tensor in tensors)
    assert ms_deform_attn_op(value, FLAT_SHAPES, locations, weights).shape == (2, 7, 24)
    with pytest.raises(ValueError, match="hold 39 tokens in all, but value has S = 36"):
        ms_deform_attn_op(value, [6, 5, 3, 3], locations, weights)


def python_functions(call: Callable[[], object]) -> list[str]:
    """The Python functions that a call enters."""
    names = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            names.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return names


@pytest.mark.parametrize("gradients", [False, True])
def test_operator_runs_no_python_code(gradients, tensors):
    """Python functions would take more time than everything else in a call."""
    value, locations, weights = tensors

    def call():
        return ms_deform_attn_op(value, FLAT_SHAPES, locations, weights)

    with torch.set_grad_enabled(gradients):
        assert python_functions(call) == ["call", "__call__"]
    for_backward = [python_functions(output.sum().backward) for output in (call(), value.sin())]
    assert for_backward[0] == for_backward[1]


def test_public_function_enters_few_python_functions(tensors):
    value, locations, weights = tensors
    shapes = [(6, 5), (3, 2)]

    def call():
        return ms_deform_attn(value, shapes, locations, weights)

    with torch.no_grad():
        call()
        entered = python_functions(call)
    assert len(entered) <= 14, entered


def test_forward_mode_is_refused(tensors):
    value, locations, weights = tensors
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="jvp is not implemented"):
        dual = forward_ad.make_dual(value, torch.ones_like(value))
        ms_deform_attn_op(dual, FLAT_SHAPES, locations, weights)


def test_constants_in_a_transformed_function(tensors):
    constants = [tensor.detach() for tensor in tensors]

    def function(scale: torch.Tensor) -> torch.Tensor:
        return (scale * Model()(*constants)).sum()

    slope = torch.func.grad(function)(torch.tensor(2.0, device=constants[0].device))
    torch.testing.assert_close(slope, Model()(*constants).sum())
