"""What the wrappers of this package share.

Shapes: K classes, C channels, H/W sides of the test image (from the mapper).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Inputs = Sequence[Mapping[str, Any]]


def check_mode(wrapper: nn.Module) -> None:
    """Raise a RuntimeError if a wrapper is in training mode."""
    if wrapper.training:
        raise RuntimeError(
            f"{type(wrapper).__name__} is for testing, but is in training mode; call eval() first"
        )


def predict(model: nn.Module, image: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Scores (K, height, width) of an image (C, H, W), at its own size unless given another."""
    height, width = size or image.shape[-2:]
    return model([{"image": image, "height": height, "width": width}])[0]["sem_seg"]


def windows(length: int, crop: int, stride: int) -> list[slice]:
    """Cut a side of an image into windows as long as the crop, or as the side if shorter."""
    last = max(length - crop, 0)
    count = math.ceil(last / stride) + 1
    starts = [min(index * stride, last) for index in range(count)]
    return [slice(start, min(start + crop, length)) for start in starts]


def wide(image: Tensor) -> Tensor:
    """Convert to float32 unless the type is wider."""
    return image.to(torch.promote_types(image.dtype, torch.float32))


def resize(image: Tensor, size: tuple[int, int], *, antialias: bool = False) -> Tensor:
    """Resize (C, H, W) bilinearly to (height, width); unchanged if it has this size."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(
        wide(image)[None], size=size, mode="bilinear", align_corners=False, antialias=antialias
    )[0]
