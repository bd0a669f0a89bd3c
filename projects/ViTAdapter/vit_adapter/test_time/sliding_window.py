"""Testing semantic models in sliding windows.

The class wraps any model that maps Detectron2's ``batched_inputs`` to ``[{"sem_seg": scores}]``,
and is such a model itself.

Shapes: K classes, C channels, H/W sides of the test image (from the mapper), h/w sides of a window.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vit_adapter.layers import fix_traced_size
from vit_adapter.test_time.parts import Inputs, check_mode, predict, resize, wide, windows


class SlidingWindow(nn.Module):
    """Segments an image in overlapping windows, and averages the scores where they overlap.

    The windows of a row or column start ``stride`` pixels apart, and the last one ends at the
    border. A side shorter than the crop is padded at its end, or becomes one shorter window. If
    both are, the windows can also be squares as large as the shorter side.

    Windows run through the model one at a time. So the memory depends on the image and not on the
    number of windows: there is one map of scores at the size of the test image, and finally one at
    the size of the original image.

    Args:
        model: a semantic model; the wrapper takes over its mode (training or evaluation).
        crop_size: (height, width) of a window in pixels of the test image, >= 1.
        stride: (vertical, horizontal) step in pixels, from 1 to the side of the crop.
        pad_value: colour for padding images smaller than the crop, in the channels of the test
            image; None for no padding.
        square_if_small: whether the windows of an image smaller than the crop on both sides are
            squares of its shorter side, at most that side apart, as in DINOv3's segmentor.

    Attributes:
        model: the model that is applied to each window.

    Raises:
        ValueError: there are not two numbers each, the stride would leave gaps, or small images
            are to be both padded and cut into squares.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        crop_size: Sequence[int],
        stride: Sequence[int],
        pad_value: Sequence[float] | None = None,
        square_if_small: bool = False,
    ) -> None:
        super().__init__()
        if len(crop_size) != 2 or len(stride) != 2:
            raise ValueError(
                "crop_size and stride must be (height, width) each, "
                f"got {list(crop_size)} and {list(stride)}"
            )
        if any(not 1 <= step <= side for step, side in zip(stride, crop_size, strict=True)):
            raise ValueError(
                "stride must be between 1 and the side of the crop, or pixels are left out; "
                f"got crop_size {list(crop_size)} and stride {list(stride)}"
            )
        if square_if_small and pad_value is not None:
            raise ValueError(
                "square_if_small and pad_value both say what happens to images smaller than the "
                f"crop; set pad_value to None, got {list(pad_value)}"
            )
        self.model = model
        self.crop_size = tuple(crop_size)
        self.stride = tuple(stride)
        self.pad_value = None if pad_value is None else tuple(pad_value)
        self.square_if_small = square_if_small
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: Inputs) -> list[dict[str, Tensor]]:
        """Segment images.

        Args:
            batched_inputs: ``"image"`` (C, H, W), and ``"height"`` and ``"width"`` of the original
                image (by default H and W).

        Returns:
            For each image ``{"sem_seg": scores (K, height, width)}``.

        Raises:
            RuntimeError: the wrapper is in training mode.
        """
        check_mode(self)
        return [{"sem_seg": self._segment(inputs)} for inputs in batched_inputs]

    def _segment(self, inputs: Mapping[str, Any]) -> Tensor:
        image = fix_traced_size(inputs["image"])
        height, width = image.shape[-2:]
        image = self._pad(image)
        sides = image.shape[-2:]
        rows, columns = self._windows(*sides)
        total = None
        for row in rows:
            for column in columns:
                scores = predict(self.model, image[:, row, column])
                if total is None:
                    total = scores.new_zeros(len(scores), *sides)
                total[:, row, column] += scores
        # The number of windows over a pixel is that of its row times that of its column.
        total /= _counts(rows, sides[0]).to(total)[:, None]
        total /= _counts(columns, sides[1]).to(total)
        size = (inputs.get("height", height), inputs.get("width", width))
        return resize(total[:, :height, :width], size)

    def _windows(self, height: int, width: int) -> tuple[list[slice], list[slice]]:
        """Cut the height and the width of an image into rows and columns of windows."""
        crop, stride = self.crop_size, self.stride
        if self.square_if_small and height < crop[0] and width < crop[1]:
            side = min(height, width)
            crop, stride = (side, side), tuple(min(step, side) for step in stride)
        return windows(height, crop[0], stride[0]), windows(width, crop[1], stride[1])

    def _pad(self, image: Tensor) -> Tensor:
        """Pad an image at the bottom and right to the size of the crop if ``pad_value`` is set."""
        height, width = image.shape[-2:]
        padded_size = (max(height, self.crop_size[0]), max(width, self.crop_size[1]))
        if self.pad_value is None or padded_size == (height, width):
            return image
        colour = wide(image).new_tensor(self.pad_value)
        padded = colour[:, None, None].expand(-1, *padded_size).clone()
        padded[:, :height, :width] = image
        return padded


def _counts(cuts: Sequence[slice], length: int) -> Tensor:
    """The number of windows over each position of a side."""
    counts = torch.zeros(length)
    for window in cuts:
        counts[window] += 1
    return counts
