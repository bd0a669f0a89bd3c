"""Learning whether all losses are finite, while the device goes on computing."""

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

__all__ = ["FiniteCheck"]


class FiniteCheck:
    """Tells whether numbers on the device are finite in all processes.

    On CUDA nothing waits until :meth:`passed`, which waits only for the work that was queued before
    :meth:`start`. Queue the backward pass in between, and the device is never idle: the answer is
    reduced and copied beside it, on a stream of its own.
    """

    def __init__(self) -> None:
        self._flag: Tensor | None = None  # on the CPU once the check has ended
        self._work: dist.Work | None = None
        self._stream: torch.cuda.Stream | None = None
        self._copied: torch.cuda.Event | None = None

    def start(self, numbers: Tensor) -> None:
        """Begin the check of a tensor of any shape; every process calls this."""
        flag = numbers.isfinite().all().to(torch.int32)
        if flag.is_cuda:
            self._start_beside(flag)
        else:
            self._flag, self._work = flag, _reduce(flag)

    def passed(self) -> bool:
        """End the check that was started last, and return whether every number is finite."""
        if self._work is not None:
            self._work.wait()
        if self._copied is not None:
            self._copied.synchronize()
        return bool(self._flag.item())

    def _start_beside(self, flag: Tensor) -> None:
        if self._stream is None:
            self._stream, self._copied = torch.cuda.Stream(flag.device), torch.cuda.Event()
            self._flag = torch.empty((), dtype=flag.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(flag.device))
        with torch.cuda.stream(self._stream):
            work = _reduce(flag)
            if work is not None:
                work.wait()  # lets this stream wait, not the host
            self._flag.copy_(flag, non_blocking=True)
            self._copied.record()
        flag.record_stream(self._stream)  # its memory is in use until then


def _reduce(flag: Tensor) -> dist.Work | None:
    """Begin to make ``flag`` the smallest of all processes."""
    if comm.get_world_size() == 1:
        return None
    return dist.all_reduce(flag, op=dist.ReduceOp.MIN, async_op=True)
