"""Tensors that remember which tensors of a checkpoint they were computed from."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

__all__ = ["TracedTensor"]

_RESAMPLING = frozenset({"interpolate", "matmul", "__matmul__"})
"""How timm's readers resize positions (interpolation) and patch kernels (a pseudo-inverse)."""


class TracedTensor(Tensor):
    """A tensor of a checkpoint that passes its name on to everything computed from it.

    timm's readers rename, join, split, resize and drop tensors. With traced tensors, the result
    shows which names of the checkpoint were used.

    Attributes:
        sources: the names that it was computed from.
        resampled: whether it was resized on the way.
    """

    sources: frozenset[str]
    resampled: bool

    @classmethod
    def name_all(cls, state_dict: Mapping[str, Tensor]) -> dict[str, "TracedTensor"]:
        """Give every tensor its name; nothing is copied."""
        named = {key: value.detach().as_subclass(cls) for key, value in state_dict.items()}
        for key, value in named.items():
            value.sources, value.resampled = frozenset([key]), False
        return named

    def plain(self) -> Tensor:
        """Return the tensor without the names."""
        return self.as_subclass(Tensor)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func`` and pass the names of its arguments to its results."""
        results = super().__torch_function__(func, types, args, kwargs or {})
        inputs = list(_traced([*args, *(kwargs or {}).values()]))
        for result in _traced([results]):
            known = [tensor for tensor in inputs if hasattr(tensor, "sources")]
            result.sources = frozenset().union(*(tensor.sources for tensor in known))
            result.resampled = any(tensor.resampled for tensor in known) or (
                getattr(func, "__name__", "") in _RESAMPLING
            )
        return results


def _traced(values: list[Any] | tuple[Any, ...]) -> Iterator[TracedTensor]:
    """Traced tensors among values, including those inside lists and tuples."""
    for value in values:
        if isinstance(value, TracedTensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _traced(value)
