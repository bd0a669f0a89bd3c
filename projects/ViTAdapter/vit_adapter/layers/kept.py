"""Tensors that are kept for later calls, which may run on other CUDA streams or be captured."""

from typing import Generic, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value", Tensor, tuple[Tensor, ...])

_captured: dict[int, Tensor] = {}


class Kept(Generic[Value]):
    """A new value that calls on any CUDA stream may read.

    Kernels of different streams run in any order. Another stream therefore waits, on the device,
    until the value is computed, and its memory is not used again before that stream has read it.

    Args:
        value: tensors of one device, computed on its current stream; they hold numbers.

    Attributes:
        value: the same; use :meth:`read` to compute with it.
    """

    def __init__(self, value: Value) -> None:
        self.value = value
        self._streams: set[torch.cuda.Stream] | None = None  # those that may read it
        first = parts(value)[0]
        if first.is_cuda and torch.cuda.is_initialized():
            stream = torch.cuda.current_stream(first.device)
            self._computed = stream.record_event()
            self._streams = {stream}

    def read(self) -> Value:
        """Return the value, for kernels of the current stream."""
        if self._streams is not None:
            self._order_after_computation(self._streams)
        return self.value

    def _order_after_computation(self, streams: set[torch.cuda.Stream]) -> None:
        first = parts(self.value)[0]
        stream = torch.cuda.current_stream(first.device)
        # A graph may not wait for an event from outside. Captures start when the device is idle.
        if stream in streams or is_captured(first):
            return
        stream.wait_event(self._computed)
        for part in parts(self.value):
            part.record_stream(stream)
        streams.add(stream)  # last: another thread on this stream must not pass before


def parts(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensors of a value."""
    return (value,) if isinstance(value, Tensor) else value


def holds_numbers(tensor: Tensor) -> bool:
    """Whether a new tensor can be kept for later calls; fake and captured ones hold no numbers."""
    return type(tensor) is Tensor and not is_captured(tensor)


def is_captured(tensor: Tensor) -> bool:
    """Whether operations on a tensor are now being captured in a CUDA graph."""
    # A fake tensor may claim to be on CUDA where there is no driver.
    cuda = tensor.is_cuda and torch.cuda.is_initialized()
    return cuda and torch.cuda.is_current_stream_capturing()


def keep_if_captured(tensor: Tensor) -> Tensor:
    """Return a cached tensor; never free it if a CUDA graph will read its memory."""
    if is_captured(tensor):
        _captured[id(tensor)] = tensor
    return tensor
