"""Resizing of masks to an image's output, a few at a time.

Shapes: N maps, h/w grid of the masks (stride 4), H/W sides of the output in pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor

from vit_adapter.layers import GridSize


@dataclass(frozen=True)
class MaskResizer:
    """Resizes maps to the padded image, crops the padding, and resizes to the output.

    Attributes:
        padded_size: (height, width) of the batch.
        image_size: those of the image in it.
        output_size: those of the output, (H, W).
        max_pixels: pixels that :meth:`in_parts` resizes at once; 2**25 are 128 MiB in float32.
        in_one_step: resize straight to the output if the image has no padding.
    """

    padded_size: GridSize
    image_size: GridSize
    output_size: GridSize
    max_pixels: int = 2**25
    in_one_step: bool = False

    def __call__(self, maps: Tensor) -> Tensor:
        """Resize all maps at once: (N, h, w) -> (N, H, W)."""
        height, width = self.output_size
        if not len(maps):
            return maps.new_zeros(0, height, width)
        if self.in_one_step and tuple(self.image_size) == tuple(self.padded_size):
            return _interpolate(maps, self.output_size)
        maps = _interpolate(maps, self.padded_size)
        if tuple(self.image_size) == tuple(self.output_size):
            return maps[:, :height, :width]
        return sem_seg_postprocess(maps, self.image_size, height, width)

    def in_parts(self, maps: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Resize as many maps at once as ``max_pixels`` allows, and at least one.

        Args:
            maps: (N, h, w).

        Yields:
            The index of the first map of a part, and the resized part; one empty part if there are
            no maps. A trace has only one part, because it would record the number of parts.
        """
        sizes = (self.padded_size, self.output_size)
        at_once = max(1, self.max_pixels // max(height * width for height, width in sizes))
        if torch.jit.is_tracing() or len(maps) <= at_once:
            yield 0, self(maps)
            return
        for first in range(0, len(maps), at_once):
            yield first, self(maps[first : first + at_once])


def _interpolate(maps: Tensor, size: GridSize) -> Tensor:
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
