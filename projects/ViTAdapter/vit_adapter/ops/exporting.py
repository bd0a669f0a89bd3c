"""Whether the operations that run now are recorded for another runtime.

A recorded graph must contain only what every exporter and runtime supports, in float32. So the
operator of the package, the fast paths on the CPU and 16-bit arithmetic are off then.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

__all__ = ["exporting", "is_exporting"]

_exporting: ContextVar[bool] = ContextVar("exporting", default=False)


@contextmanager
def exporting() -> Iterator[None]:
    """Compute with plain operations and in float32 inside the ``with`` block, in this thread."""
    token = _exporting.set(True)
    try:
        yield
    finally:
        _exporting.reset(token)


@torch.compiler.assume_constant_result
def is_exporting() -> bool:
    """Whether this thread is inside a ``with exporting()`` block; a constant to torch.compile."""
    return _exporting.get()
