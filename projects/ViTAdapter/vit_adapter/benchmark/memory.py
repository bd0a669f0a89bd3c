"""Memory that a call needs, and what autograd keeps between forward and backward pass."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["MEBIBYTE", "SavedTensors", "peak_memory"]

MEBIBYTE = 2**20

# The profiler reports on itself, and on a missing GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Return the largest growth in bytes of the tensors' memory during a call.

    On the CPU this includes the memory that operators allocate for themselves through PyTorch, but
    not that of libraries such as oneDNN.
    """
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


class SavedTensors:
    """Counts the storages that autograd keeps, each once.

    :meth:`pack` is for :class:`torch.autograd.graph.saved_tensors_hooks`.

    Args:
        own: tensors that do not count, such as the weights.
    """

    def __init__(self, own: Iterable[Tensor]) -> None:
        self._own = {_address(tensor) for tensor in own}
        self._sizes: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        """Note a tensor that is saved."""
        address = _address(tensor)
        if address not in self._own:
            self._sizes[address] = tensor.untyped_storage().nbytes()
        return tensor

    @property
    def num_bytes(self) -> int:
        """Sum over all storages."""
        return sum(self._sizes.values())


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
