"""Random numbers that depend on an image alone, not on the others in its batch.

Heads draw anchors, proposals and points at random. Inside :func:`image_seeds`, what they draw for
an image follows from its seed, in any batch and process.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["has_image_seeds", "image_seeds", "random_numbers_of"]

# The augmentation of an image may start from the same seed, and should not share its numbers.
_OFFSET = 0x5DEECE66D


class _Stream:
    """The random numbers of one image: each use continues where the one before stopped."""

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        self.states: dict[torch.device, Tensor] = {}

    @contextmanager
    def use(self, device: torch.device) -> Iterator[None]:
        """Let the default generator of a device draw from this stream."""
        generator = _default_generator(device)
        outside = generator.get_state()  # in host memory on every device
        if device in self.states:
            generator.set_state(self.states[device])
        else:
            generator.manual_seed(self.seed ^ _OFFSET)
        try:
            yield
        finally:
            self.states[device] = generator.get_state()
            generator.set_state(outside)


_streams: list[_Stream] = []


@contextmanager
def image_seeds(seeds: Sequence[int | None]) -> Iterator[None]:
    """Seed what the model draws for each image of a batch.

    Each entry starts the random numbers anew, so a second forward pass draws the same.

    Args:
        seeds: of the images, from 0 to 2**63 - 1. For None, the process's generator is used.
    """
    global _streams
    before, _streams = _streams, [_Stream(seed) for seed in seeds]
    try:
        yield
    finally:
        _streams = before


def has_image_seeds() -> bool:
    """Whether at least one image of the batch has a seed."""
    return any(stream.seed is not None for stream in _streams)


@contextmanager
def random_numbers_of(image: int, device: torch.device) -> Iterator[None]:
    """Draw from the random numbers of an image, if it has a seed.

    PyTorch's default generator is restored afterwards. Nothing waits for the device.

    Args:
        image: index in the batch.
        device: where the numbers are drawn.
    """
    if not _streams or _streams[image].seed is None:
        yield
        return
    with _streams[image].use(device):
        yield


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    module = torch.get_device_module(device)
    index = module.current_device() if device.index is None else device.index
    return module.default_generators[index]
