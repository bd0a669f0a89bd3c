"""The operations of a call that take most of its time."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType

__all__ = ["profile_operations"]

_NAME_LENGTH = 120  # names of kernels contain all their template arguments


def profile_operations(
    call: Callable[[], object], device: torch.device, *, count: int = 20
) -> dict[str, Any]:
    """Run a call under PyTorch's profiler.

    Args:
        call: what to run.
        device: where its work is done.
        count: how many operations to name.

    Returns:
        ``launches``, the number of operations: on CUDA kernels and copies, also those of a captured
        graph, otherwise PyTorch's operators; and ``operations_ms``, the milliseconds of those that
        take longest, without the time of operators inside them, by name.
    """
    on_cuda = device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if on_cuda else []
    with torch.profiler.profile(activities=activities) as profile:
        call()
        if on_cuda:
            torch.cuda.synchronize(device)
    kind = DeviceType.CUDA if on_cuda else DeviceType.CPU
    launches = 0
    times: Counter[str] = Counter()
    for event in profile.key_averages():
        # Annotations contain other operations; events of older versions do not tell.
        is_annotation = getattr(event, "is_user_annotation", False)
        if event.device_type == kind and not is_annotation:
            launches += event.count
            microseconds = event.self_device_time_total if on_cuda else event.self_cpu_time_total
            times[event.key[:_NAME_LENGTH]] += microseconds / 1000
    return {"launches": launches, "operations_ms": dict(times.most_common(count))}
