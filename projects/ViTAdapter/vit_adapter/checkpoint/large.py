"""Weights larger than the memory: joined on disk, and written without copies of all of them."""

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from vit_adapter.utils.atomic import atomic_file

__all__ = ["join_on_disk", "save_safetensors"]


def join_on_disk(parts: Sequence[Tensor], folder: Path) -> Tensor:
    """Concatenate tensors along the first dimension, in a file without a name.

    The system writes the result to the disk when it needs the memory. The space is free again when
    the tensor is deleted, or the process ends.

    Args:
        parts: tensors on the CPU with the same dtype, and the same shape after the first dimension.
        folder: where the file is made.

    Raises:
        OSError: there is no space for it.
    """
    first = parts[0]
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    size = math.prod(shape) * first.element_size()
    if not size:
        return torch.cat(tuple(parts))
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # otherwise a full disk would end the process
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        content = torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=(size,)))
    return torch.cat(tuple(parts), out=content.view(first.dtype).view(shape))


def save_safetensors(
    weights: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str]
) -> None:
    """Write a ``.safetensors`` file, which appears only when it is complete.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    with atomic_file(path) as temporary:
        try:
            safetensors.torch.save_file(_separate(weights), temporary, dict(metadata))
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


def _separate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory or have gaps, which the format does not support."""
    result, end = {}, 0
    for name, tensor in sorted(weights.items(), key=lambda entry: entry[1].data_ptr()):
        if tensor.data_ptr() < end:
            tensor = tensor.clone()
        elif tensor.is_contiguous():
            end = tensor.data_ptr() + tensor.numel() * tensor.element_size()
        result[name] = tensor.contiguous()
    return result
