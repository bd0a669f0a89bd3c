"""Random images in the place of real ones, for tracing and for checks.

Shapes: B batch, C channels, H/W sides of the images.
"""

from collections.abc import Sequence

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from vit_adapter.config.input_channels import stored_channels

__all__ = ["EIGHT_BITS", "pixel_ranges", "random_images"]

Range = tuple[float, float]

EIGHT_BITS: Range = (0, 255)
"""The lowest and the highest value of usual images."""

_DEVIATIONS = 2  # most pixels are within so many standard deviations of the mean


def pixel_ranges(cfg: DictConfig, model: nn.Module) -> tuple[Range, ...]:
    """The lowest and the highest value of each channel of the images that a model is for.

    Images that are read as stored have no known limits, and get the values of most pixels.

    Args:
        cfg: its test mapper says whether images are read as stored.
        model: its model, with ``pixel_mean`` and ``pixel_std``.
    """
    mean, std = model.pixel_mean.flatten(), model.pixel_std.flatten()
    if stored_channels(cfg) is None:
        return (EIGHT_BITS,) * len(mean)
    low, high = mean - _DEVIATIONS * std, mean + _DEVIATIONS * std
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


def random_images(
    batch: int, ranges: Sequence[Range], size: tuple[int, int], *, seed: int
) -> Tensor:
    """Smooth random images with a little noise: noise alone is not an image.

    Args:
        batch: B.
        ranges: the lowest and the highest value of each of the C channels.
        size: (H, W).
        seed: the same seed gives the same images.

    Returns:
        (B, C, H, W).
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, len(ranges), 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    noise = torch.rand(batch, len(ranges), *size, generator=generator)
    low, high = torch.tensor(ranges).view(-1, 2, 1, 1).unbind(1)
    return low + (high - low) * (0.8 * smooth + 0.2 * noise)
