"""The shapes of images that an exported graph accepts.

Shapes: B batch, C channels, H/W sides of the images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.export import Dim

from vit_adapter.config.errors import UsageError
from vit_adapter.export.random_images import EIGHT_BITS, Range, random_images

__all__ = ["ImageShapes"]

MULTIPLE = 32
MOST_IMAGES = 1024
LONGEST_SIDE = 8192


@dataclass(frozen=True)
class ImageShapes:
    """One shape of images, and which of its numbers may vary.

    Attributes:
        batch: images at once.
        height, width: sides in pixels.
        ranges: the lowest and the highest value of each channel, for random images.
        dynamic_batch: whether any number of images from 1 to 1024 is accepted.
        dynamic_size: whether any sides up to 8192 that are multiples of 32 are accepted.
        shortest_side: the shortest side with dynamic sizes, see
            :attr:`vit_adapter.export.models.ExportableModel.shortest_side`.

    Raises:
        UsageError: the numbers do not fit together.
    """

    batch: int
    height: int
    width: int
    ranges: tuple[Range, ...] = (EIGHT_BITS,) * 3
    dynamic_batch: bool = False
    dynamic_size: bool = False
    shortest_side: int = 64

    def __post_init__(self) -> None:
        if self.batch < 1 or min(self.height, self.width) < 1:
            raise UsageError(
                "the batch and both sides must be at least 1, "
                f"got {self.batch}, {self.height} and {self.width}"
            )
        fits = all(
            side % MULTIPLE == 0 and self.shortest_side <= side <= LONGEST_SIDE
            for side in (self.height, self.width)
        )
        if self.dynamic_size and not fits:
            raise UsageError(
                f"with dynamic sizes, the sides must be multiples of {MULTIPLE} from "
                f"{self.shortest_side} to {LONGEST_SIDE} pixels, got {self.height} x {self.width}"
            )

    def dynamic_dimensions(self) -> dict[int, object]:
        """The dimensions that vary, as ``torch.export`` takes them."""
        dimensions: dict[int, object] = {}
        if self.dynamic_batch:
            dimensions[0] = Dim("batch", min=1, max=MOST_IMAGES)
        if self.dynamic_size:
            first, last = self.shortest_side // MULTIPLE, LONGEST_SIDE // MULTIPLE
            dimensions[2] = MULTIPLE * Dim("rows", min=first, max=last)
            dimensions[3] = MULTIPLE * Dim("columns", min=first, max=last)
        return dimensions

    def example(self) -> Tensor:
        """Images for tracing; exporters take a batch of 1 for a constant."""
        batch = max(self.batch, 2) if self.dynamic_batch else self.batch
        return random_images(batch, self.ranges, (self.height, self.width), seed=0)

    def for_checks(self) -> Iterator[Tensor]:
        """Random images of the given shape, and of another batch and another size if these vary."""
        batches = [self.batch, 1, 3] if self.dynamic_batch else [self.batch]
        sizes = [(self.height, self.width)]
        if self.dynamic_size:
            sizes.append((self.height + MULTIPLE, self.width + 2 * MULTIPLE))
        for index in range(max(len(batches), len(sizes))):
            batch, size = batches[index % len(batches)], sizes[index % len(sizes)]
            yield random_images(batch, self.ranges, size, seed=index + 1)

    def accepted_size(self, height: int, width: int) -> tuple[int, int]:
        """The smallest accepted (height, width) that holds an image.

        Raises:
            UsageError: the image is larger than every accepted size.
        """
        sides = [self.height, self.width]
        if self.dynamic_size:
            sides = [
                max(-(-side // MULTIPLE) * MULTIPLE, self.shortest_side) for side in (height, width)
            ]
        if height > min(sides[0], LONGEST_SIDE) or width > min(sides[1], LONGEST_SIDE):
            raise UsageError(
                f"an image of {height} x {width} pixels (height x width) does not fit into the "
                f"exported size, {sides[0]} x {sides[1]}; export a larger --size, or use "
                "--dynamic-size"
            )
        return sides[0], sides[1]

    def described(self) -> list[int | str]:
        """The shape (B, C, H, W), with a name for each number that varies."""
        batch = "batch" if self.dynamic_batch else self.batch
        sides = ["height", "width"] if self.dynamic_size else [self.height, self.width]
        return [batch, len(self.ranges), *sides]
