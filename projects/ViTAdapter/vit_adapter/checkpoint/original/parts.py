"""Tensors that are one tensor on one side and several on the other.

``name@1/2`` is the first of two equal parts of ``name`` along the first dimension. Rules name such
parts on either side: a tensor is split if only its parts have a new name, and the parts that a
renaming produces are joined.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["Join", "join_parts", "split_into_parts", "without_part"]

Join = Callable[[Sequence[Tensor]], Tensor]
"""Concatenates tensors along the first dimension."""

_COUNTS = (2, 3)
_PART = re.compile(r"@(\d)/(\d)$")


def without_part(name: str) -> str:
    """The name of the whole tensor."""
    return _PART.sub("", name)


def split_into_parts(
    name: str, value: Tensor, rename: Callable[[str], str | None]
) -> dict[str, Tensor]:
    """Split a tensor whose parts have new names; any other stays whole.

    Returns:
        Name -> tensor: views of ``value``, or ``value`` itself under its own name.

    Raises:
        ValueError: the tensor cannot be split into equal parts.
    """
    if rename(name) is not None:
        return {name: value}
    for count in _COUNTS:
        names = [f"{name}@{part + 1}/{count}" for part in range(count)]
        if all(rename(part) is None for part in names):
            continue
        if value.ndim == 0 or value.shape[0] % count:
            raise ValueError(
                f"{name} should consist of {count} equal parts, but has the shape "
                f"{tuple(value.shape)}"
            )
        return dict(zip(names, value.chunk(count), strict=True))
    return {name: value}


def join_parts(
    tensors: Mapping[str, Tensor], is_zero: Callable[[str], bool], join: Join = torch.cat
) -> dict[str, Tensor]:
    """Join parts to whole tensors, each at the place of its first part.

    Args:
        tensors: name -> tensor or part of a tensor.
        is_zero: whether a part, given by its name, consists of zeros if it is missing.
        join: how they are joined; not called for tensors that are whole.

    Raises:
        ValueError: a part is missing, or has another shape than the rest.
    """
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        found = _PART.search(name)
        if found is None:
            result[name] = value
            continue
        whole, count = without_part(name), int(found[2])
        if whole in result:
            continue
        names = [f"{whole}@{part + 1}/{count}" for part in range(count)]
        missing = [part for part in names if part not in tensors and not is_zero(part)]
        if missing:
            raise ValueError(
                f"{whole} is incomplete: nothing in the checkpoint becomes {missing[0]}"
            )
        parts = [tensors[part] if part in tensors else torch.zeros_like(value) for part in names]
        if any(part.shape != value.shape for part in parts):
            shapes = [tuple(part.shape) for part in parts]
            raise ValueError(f"the parts of {whole} should have the same shape, but have {shapes}")
        result[whole] = join(parts)
    return result
