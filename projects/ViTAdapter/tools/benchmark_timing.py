"""Shared code of the benchmarks: fair timing, peak memory, and the name of the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from vit_adapter.ops import extension_info

Call = Callable[[], object]

MEBIBYTE = 2**20
# On CUDA this many calls are queued while the device waits, so launching costs no time.
_CUDA_CALLS = 10
_CUDA_WAIT_CYCLES = 50_000_000


def medians(calls: Mapping[str, Call], repeats: int, device: torch.device) -> dict[str, float]:
    """Return the median time of each call in milliseconds.

    The calls take turns, so that disturbances of the machine affect them all. A first round warms
    up and does not count. On CUDA this is the device's own time, without the time for launching.
    """
    time_one = _cuda_milliseconds if device.type == "cuda" else _milliseconds
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repeats + 1):
        for name, call in calls.items():
            elapsed = time_one(call)
            if repetition > 0:
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def _milliseconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def _cuda_milliseconds(call: Call) -> float:
    call()  # any compilation, and the allocator's first blocks
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(_CUDA_WAIT_CYCLES)
    start.record()
    for _ in range(_CUDA_CALLS):
        call()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop) / _CUDA_CALLS


def peak_memory(call: Call, device: torch.device) -> int:
    """Return the largest growth in bytes of the tensors' memory during a call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    current = peak = 0
    for change in sorted(changes, key=lambda event: event["ts"]):
        current += change["args"]["Bytes"]
        peak = max(peak, current)
    return peak


def copy_bandwidth(device: torch.device) -> float:
    """Measure the bytes per second that a large copy reads and writes."""
    source = torch.zeros(64 * MEBIBYTE, device=device)  # 256 MiB, more than any cache
    target = torch.empty_like(source)
    elapsed = medians({"copy": lambda: target.copy_(source)}, 7, device)["copy"]
    return 2 * source.nbytes / (elapsed / 1000)


def describe_machine(device: torch.device) -> str:
    """Return the name of the machine, and what the operator is computed with."""
    info = extension_info()
    backend = info["backends"].get(device.type, "reference")
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, ours: {backend}"
    return (
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, ours: {backend} {info['cpu_instruction_set']}"
    ).rstrip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
