"""Minimum speeds of the operator, far below what it reaches on an idle machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from vit_adapter.benchmark.op import Case, make_inputs
from vit_adapter.ops import ms_deform_attn, ms_deform_attn_reference
from vit_adapter.ops.extension import has_kernel
from vit_adapter.ops.reference import ms_deform_attn_embedding_bag

pytestmark = pytest.mark.slow

# The calls that models make, some of them on smaller images: side in pixels, heads, channels per
# head, strides of queries and of values, as in vit_adapter.benchmark.op.
CASES = {
    "S injector": (512, 6, 64, (16,), (8, 16, 32)),
    "S extractor": (512, 6, 64, (8, 16, 32), (16,)),
    "B injector": (448, 12, 32, (16,), (8, 16, 32)),
    "B extractor": (448, 12, 32, (8, 16, 32), (16,)),
    "Mask2Former": (256, 8, 32, (8, 16, 32), (8, 16, 32)),
}
ATTEMPTS = 3  # other programs may disturb some
TURNS = 7


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seconds(call: Callable[[], object]) -> float:
    """Processor time of one call in this thread, which does not count other programs."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def gain(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    """How many times faster ours is: medians of alternating calls, after one warm-up call each."""
    ours(), theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(TURNS)]
    own, other = (statistics.median(column) for column in zip(*times, strict=True))
    return other / own


def holds(floor: float, measure: Callable[[], float]) -> bool:
    """Whether one of a few attempts reaches the floor."""
    return any(measure() >= floor for _ in range(ATTEMPTS))


def forward(function, inputs) -> Callable[[], object]:
    def call():
        with torch.no_grad():
            return function(*inputs)

    return call


def training(function, inputs) -> Callable[[], object]:
    value, shapes, *rest = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in (value, *rest)]
    grad_output = torch.randn_like(ms_deform_attn_reference(*inputs))

    def call():
        output = function(leaves[0], shapes, *leaves[1:])
        return torch.autograd.grad(output, leaves, grad_output)

    return call


@pytest.mark.skipif(not has_kernel("cpu"), reason="no CPU kernel is built here")
@pytest.mark.parametrize(("kind", "floor"), [(forward, 6.0), (training, 4.0)])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernel_is_faster_than_grid_sample(case, kind, floor):
    inputs = make_inputs(Case(*case), "local")
    calls = kind(ms_deform_attn, inputs), kind(ms_deform_attn_reference, inputs)
    assert holds(floor, lambda: gain(*calls))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_fallback_is_no_slower_than_grid_sample(case):
    inputs = make_inputs(Case(*case), "local")
    fallback = forward(ms_deform_attn_embedding_bag, inputs)
    assert holds(1.0, lambda: gain(fallback, forward(ms_deform_attn_reference, inputs)))
