"""The time that a call of the operator takes apart from computing."""

import importlib
import statistics
import time
from collections.abc import Callable

import torch

from vit_adapter.ops import ms_deform_attn
from vit_adapter.ops.extension import has_kernel

__all__ = ["measure_overhead"]

_CALLS = 50  # in a row: short enough that other programs rarely interrupt them
_REPEATS = 300


def measure_overhead() -> dict[str, float]:
    """Time calls on the CPU that read one point of one channel, without gradients.

    Returns:
        Microseconds of processor time, the median of many runs, of ``"public function"``,
        ``"operator"`` (which PyTorch dispatches) and ``"kernel"`` (called directly); empty if there
        is no kernel.
    """
    if not has_kernel("cpu"):
        return {}
    kernel = importlib.import_module("vit_adapter._C").ms_deform_attn_forward_cpu
    operator = torch.ops.vit_adapter.ms_deform_attn.default
    value = torch.ones(1, 1, 1, 1)
    locations, weights = torch.rand(1, 1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 1)
    with torch.no_grad():
        return {
            "public function": _microseconds(
                lambda: ms_deform_attn(value, [(1, 1)], locations, weights)
            ),
            "operator": _microseconds(lambda: operator(value, [1, 1], locations, weights)),
            "kernel": _microseconds(lambda: kernel(value, [1, 1], locations, weights)),
        }


def _microseconds(call: Callable[[], object]) -> float:
    """Return the processor time of one call in this thread."""
    times = []
    for _ in range(_REPEATS):
        start = time.thread_time()
        for _ in range(_CALLS):
            call()
        times.append(time.thread_time() - start)
    return 1e6 * statistics.median(times) / _CALLS
