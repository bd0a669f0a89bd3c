"""Properties of the operator for any shape, dtype, layout and content.

Shapes: B batch, S value tokens, M heads, D channels per head, Q queries, L levels, P points.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from vit_adapter.ops import ms_deform_attn, ms_deform_attn_reference
from vit_adapter.ops.extension import select_backend

# The same examples in every run: intermittent failures help nobody. fuzz_op.py draws new ones.
any_case = settings(max_examples=80, deadline=None, derandomize=True, database=None)
# Plain PyTorch chooses its own order of sums, and multiplies values it does not need by zero.
bits_of_kernels = pytest.mark.skipif(
    select_backend("cpu") != "kernel", reason="no CPU kernel is built here, or it is switched off"
)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
NAN, INF = float("nan"), float("inf")
BAD_COORDINATES = [NAN, INF, -INF, 1e30, -1e30, 3.0, -3.0]
SPREADS = {"inside": (0.2, 0.8), "around": (-0.5, 1.5), "all outside": (1.9, 7.0)}


class Call(NamedTuple):
    """Arguments in float64 that a dtype can hold, and the gradient of the output."""

    value: Tensor
    shapes: list[tuple[int, int]]
    locations: Tensor
    weights: Tensor
    grad_output: Tensor
    dtype: torch.dtype


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """Draw sizes that break kernels: primes, one, zero, and D close to every vector width."""
    batch, queries = draw(st.sampled_from([0, 1, 2, 3])), draw(st.sampled_from([0, 1, 2, 7, 13]))
    dim = draw(st.sampled_from([1, 3, 8, 17, 20, 32, 40, 64, 65, 256]))
    heads, points = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    one_pixel = st.just((1, 1))
    shapes = draw(
        st.lists(st.one_of(one_pixel, st.tuples(*[st.integers(1, 8)] * 2)), min_size=1, max_size=5)
    )
    dtype = draw(st.sampled_from(DTYPES))
    low, high = SPREADS[draw(st.sampled_from(sorted(SPREADS)))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64)

    rows = (batch, queries, heads, len(shapes), points)
    locations = low + (high - low) * torch.rand(*rows, 2, generator=generator, dtype=torch.float64)
    sides = torch.tensor([[w, h] for h, w in shapes], dtype=torch.float64)[:, None]  # (L, 1, 2)
    pixels = locations * sides - 0.5  # off the kinks, where the gradient of locations jumps
    pixels = pixels.floor() + (pixels - pixels.floor()).clamp(0.01, 0.99)
    locations = (pixels + 0.5) / sides
    if draw(st.booleans()):
        bad = torch.rand(locations.shape, generator=generator) < 0.1
        locations[bad] = draw(st.sampled_from(BAD_COORDINATES))
    wide = torch.promote_types(dtype, torch.float32)
    return Call(
        normal(batch, sum(h * w for h, w in shapes), heads, dim).to(dtype).double(),
        shapes,
        locations.to(wide).double(),
        normal(*rows).to(wide).double(),
        normal(batch, queries, heads * dim).to(dtype).double(),
        dtype,
    )


def results(function, call: Call, dtype: torch.dtype, layout=lambda tensor: tensor) -> list[Tensor]:
    """Return the output and the three gradients in float64, computed in a dtype."""
    wide = torch.promote_types(dtype, torch.float32)
    value, locations, weights = (
        tensor.to(given, copy=True).requires_grad_()
        for tensor, given in ((call.value, dtype), (call.locations, wide), (call.weights, wide))
    )
    output = function(layout(value), call.shapes, layout(locations), layout(weights))
    gradients = torch.autograd.grad(
        output, (value, locations, weights), layout(call.grad_output.to(dtype))
    )
    return [tensor.double() for tensor in (output.detach(), *gradients)]


@any_case
@given(calls())
def test_error_stays_within_twice_that_of_plain_pytorch(call):
    expected = results(ms_deform_attn_reference, call, torch.float64)
    plain = results(ms_deform_attn_reference, call, call.dtype)
    actual = results(ms_deform_attn, call, call.dtype)
    resolution = torch.finfo(torch.promote_types(call.dtype, torch.float32)).eps
    for want, ours, theirs in zip(expected, actual, plain, strict=True):
        assert ours.shape == want.shape
        if want.numel() > 0:
            slack = 256 * resolution * max(1.0, want.abs().max().item())
            assert (ours - want).abs().max() <= 2 * (theirs - want).abs().max() + slack


def transposed(tensor: Tensor) -> Tensor:
    """The same numbers, with the last two dimensions exchanged in memory."""
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


def misaligned(tensor: Tensor) -> Tensor:
    """The same numbers, starting one element after an aligned address."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


def sliced(tensor: Tensor) -> Tensor:
    """The same numbers as a slice, with gaps in every dimension except the first."""
    padded = torch.nn.functional.pad(tensor, (1, 2) * (tensor.dim() - 1), value=NAN)
    return padded[(slice(None), *[slice(1, -2)] * (tensor.dim() - 1))]


@bits_of_kernels
@any_case
@given(calls(), st.sampled_from([transposed, misaligned, sliced]))
def test_layout_does_not_change_a_bit(call, layout):
    plain = results(ms_deform_attn, call, call.dtype)
    laid_out = results(ms_deform_attn, call, call.dtype, layout)
    assert all(map(torch.equal, laid_out, plain))


@bits_of_kernels
@any_case
@given(calls(), st.randoms(use_true_random=False))
def test_queries_and_images_are_independent(call, random):
    """Reordered queries, and images one by one, give the same bits, except in sums over queries."""
    order = list(range(call.locations.shape[1]))
    random.shuffle(order)
    output = results(ms_deform_attn, call, call.dtype)[0]
    shuffled = call._replace(
        locations=call.locations[:, order],
        weights=call.weights[:, order],
        grad_output=call.grad_output[:, order],
    )
    assert torch.equal(results(ms_deform_attn, shuffled, call.dtype)[0], output[:, order])
    whole = results(ms_deform_attn, call, call.dtype)
    for b in range(call.value.shape[0]):
        one = Call(*(x[b : b + 1] if isinstance(x, Tensor) else x for x in call))
        alone = results(ms_deform_attn, one, call.dtype)
        assert all(torch.equal(a, w[b : b + 1]) for a, w in zip(alone, whole, strict=True))


@bits_of_kernels
@any_case
@given(calls(), st.sampled_from([NAN, INF, -INF]))
def test_values_that_no_point_reads_do_not_matter(call, poison):
    """Sampling neither reads pixels outside its points nor writes gradients to them."""
    smooth = call._replace(
        weights=torch.ones_like(call.weights), grad_output=torch.ones_like(call.grad_output)
    )
    expected = results(ms_deform_attn, smooth, torch.float64)
    unread = expected[1] == 0
    poisoned = smooth._replace(value=call.value.masked_fill(unread, poison))
    actual = results(ms_deform_attn, poisoned, torch.float64)
    assert all(map(torch.equal, actual, expected))
