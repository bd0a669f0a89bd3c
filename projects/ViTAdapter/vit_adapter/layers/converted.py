"""Models that are converted to 16 bits by ``model.bfloat16()`` or ``model.half()``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Float32Statistics(nn.Module):
    """A model that normalises images in float32, also after it was converted to 16 bits.

    Its buffers ``pixel_mean`` and ``pixel_std`` stay in float32: 16 bits would round the statistics
    of images with more than 8 bits, and the images with them. The normalised images are converted
    by :func:`in_dtype_of_weights`, which the backbones of this package call.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        with buffers_in_float32(self, "pixel_mean", "pixel_std"):
            return super()._apply(fn, *args, **kwargs)


@contextmanager
def buffers_in_float32(module: nn.Module, *names: str) -> Iterator[None]:
    """Let the named buffers of a module stay in float32 if the block converts it to 16 bits."""
    kept = {name: getattr(module, name) for name in names}
    yield
    for name, buffer in kept.items():
        converted = getattr(module, name)
        if converted.dtype.itemsize < torch.float32.itemsize:
            setattr(module, name, buffer.to(converted.device, torch.float32))


def in_dtype_of_weights(images: Tensor, module: nn.Module) -> Tensor:
    """Convert images to the dtype of a module in 16 bits; in other modules they stay as they are.

    Args:
        images: float images of any shape.
        module: its first parameter decides, if it has any.
    """
    dtype = next(module.parameters(), images).dtype
    return images.to(dtype) if dtype.itemsize < torch.float32.itemsize else images
