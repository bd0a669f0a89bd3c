"""What inference derives from parameters again and again: merged and folded weights, biases."""

import threading
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vit_adapter.layers.kept import Kept, Value, holds_numbers, is_captured, parts

# Per cache: enough for a bias of 512 pixels in float32 or 640 in bfloat16 with 16 heads.
_MAX_BYTES = 80 * 2**20

_Sources = list[tuple[weakref.ref[Tensor], int, int]]
_graph = threading.local()


class DerivedTensors:
    """Caches tensors that are computed from a few parameters alone, for inference.

    Nothing is kept while gradients are computed, so a training step never sees an old value. All
    is forgotten as soon as a parameter is found to be replaced or written to. Writes to
    ``parameter.data`` cannot be detected: call :meth:`clear` after them (:class:`DerivesTensors`
    does so when its training mode is set). At most 80 MiB are kept. Several threads may use one
    cache, on any CUDA streams.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, tuple[_Sources, Kept]] = {}
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[type["DerivedTensors"], tuple[()]]:
        """Let copies and pickles start empty."""
        return type(self), ()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    def get(self, sources: Sequence[Tensor], key: Hashable, make: Callable[[], Value]) -> Value:
        """Return ``make()``, or its result from an earlier call with the same sources and key.

        Do not write to the result.

        Args:
            sources: the parameters and buffers that the result is made from, at least one.
            key: everything else that the result depends on.
            make: computes the result, a tensor or a tuple of tensors.
        """
        held = getattr(_graph, "held", None)
        captured = is_captured(sources[0])
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or (captured and held is None):
            return make()  # the graph follows the sources, and outlives this cache
        if torch.is_grad_enabled() or any(source.is_inference() for source in sources):
            self.clear()
            return make()
        with self._lock:
            value = self._find(sources, key)
            if value is None:
                # Taken before: if another thread writes meanwhile, the next call notices.
                versions = [source._version for source in sources]
                value = make()
                self._keep(sources, versions, key, value)
        if captured:
            held.append(value)
        return value

    def _find(self, sources: Sequence[Tensor], key: Hashable) -> Any:
        if key not in self._entries:
            return None
        known, kept = self._entries[key]
        same = len(known) == len(sources) and all(
            ref() is source and memory == source.data_ptr() and version == source._version
            for source, (ref, memory, version) in zip(sources, known, strict=True)
        )
        if not same:
            self.clear()
        return kept.read() if same else None

    def _keep(
        self, sources: Sequence[Tensor], versions: list[int], key: Hashable, value: Any
    ) -> None:
        if _size(value) > _MAX_BYTES or not all(map(holds_numbers, parts(value))):
            return
        total = sum(_size(kept.value) for _, kept in self._entries.values())
        while self._entries and total + _size(value) > _MAX_BYTES:
            total -= _size(self._entries.pop(next(iter(self._entries)))[1].value)
        known = [
            (weakref.ref(source), source.data_ptr(), version)
            for source, version in zip(sources, versions, strict=True)
        ]
        self._entries[key] = known, Kept(value)


@contextmanager
def held_for_graph() -> Iterator[list[Any]]:
    """Let a CUDA graph that is captured in the ``with`` block read cached tensors.

    The graph then does not compute them, and does not follow changes of the parameters.

    Yields:
        A list of the tensors; it must live as long as the graph.
    """
    _graph.held = []
    try:
        yield _graph.held
    finally:
        _graph.held = None


class DerivesTensors(nn.Module):
    """A module with a cache, ``derived``, that is cleared when the training mode is set."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.derived = DerivedTensors()

    def train(self, mode: bool = True) -> "DerivesTensors":
        """See :meth:`torch.nn.Module.train`; forgets what was derived for inference."""
        self.derived.clear()
        return super().train(mode)


def _size(value: Tensor | tuple[Tensor, ...]) -> int:
    return sum(part.nbytes for part in parts(value))
