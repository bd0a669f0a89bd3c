"""Fair timing: calls take turns, and their medians are compared."""

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch

from vit_adapter.benchmark.memory import MEBIBYTE

__all__ = ["Call", "copy_bandwidth", "in_turns", "medians", "milliseconds", "take_turns"]

Call = Callable[[], object]
_Name = TypeVar("_Name", bound=Hashable)

# On CUDA this many calls are queued while the device waits, so launching costs no time: fewer if
# their kernels fill the queue, or their launches take longer than the device waits.
_CUDA_CALLS = (10, 5, 2, 1)
_CUDA_WAIT_CYCLES = 50_000_000


def medians(calls: Mapping[str, Call], repeats: int, device: torch.device) -> dict[str, float]:
    """Return the median time of each call in milliseconds.

    The calls take turns, after one round that warms up. On CUDA this is the device's own time,
    without the time for launching, unless launching a single call takes longer than about 25 ms.
    """
    on_cuda = device.type == "cuda"
    time_one = partial(_cuda_milliseconds, device=device) if on_cuda else milliseconds
    times = take_turns(calls, repeats, time_one)
    return {name: statistics.median(values) for name, values in times.items()}


def take_turns(
    calls: Mapping[_Name, Call],
    repeats: int,
    time_one: Callable[[Call], float],
    *,
    warm_up: int = 1,
) -> dict[_Name, list[float]]:
    """Time each call several times, in turns, so that disturbances of the machine affect them all.

    Args:
        calls: by name.
        repeats: rounds that count.
        time_one: runs a call and returns its time.
        warm_up: rounds before them, which do not count.
    """
    times: dict[_Name, list[float]] = {name: [] for name in calls}
    for repetition in range(warm_up + repeats):
        for name, call in calls.items():
            elapsed = time_one(call)
            if repetition >= warm_up:
                times[name].append(elapsed)
    return times


def in_turns(calls: Sequence[Call]) -> Call:
    """Return a call that runs one of several each time, in order and again from the first.

    The last result of each is kept, so that the next one does not get its memory.
    """
    following = itertools.cycle(calls)
    results = deque[object](maxlen=len(calls))
    return lambda: results.append(next(following)())


def milliseconds(call: Call) -> float:
    """Run a call on the CPU and return its time."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def _cuda_milliseconds(call: Call, device: torch.device) -> float:
    call()  # any compilation, and the allocator's first blocks
    with torch.cuda.device(device):  # events and waits are those of the current device
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for calls in _CUDA_CALLS:
            torch.cuda.synchronize()
            torch.cuda._sleep(_CUDA_WAIT_CYCLES)
            start.record()
            for _ in range(calls):
                call()
            stop.record()
            is_queued = not start.query()  # the device is still waiting
            torch.cuda.synchronize()
            if is_queued:
                break
    return start.elapsed_time(stop) / calls


def copy_bandwidth(device: torch.device) -> float:
    """Measure the bytes per second that a large copy reads and writes."""
    source = torch.zeros(64 * MEBIBYTE, device=device)  # 256 MiB, more than any cache
    target = torch.empty_like(source)
    elapsed = medians({"copy": lambda: target.copy_(source)}, 7, device)["copy"]
    return 2 * source.nbytes / (elapsed / 1000)
