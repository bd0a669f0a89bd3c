"""Testing semantic models in sliding windows, and at several scales with flipped images.

Both classes wrap any model that maps Detectron2's ``batched_inputs`` to ``[{"sem_seg": scores}]``,
and are such models themselves, e.g. ``MultiScaleFlip(SlidingWindow(model, ...), ...)``.

Shapes: K classes, H/W sides of the test image (from the mapper), h/w sides of a window.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit_adapter.layers import fix_traced_size

Inputs = Sequence[Mapping[str, Any]]


class SlidingWindow(nn.Module):
    """Segments an image in overlapping windows, and averages the scores where they overlap.

    The windows of a row or column start ``stride`` pixels apart, and the last one ends at the
    border. A side shorter than the crop is padded at its end, or becomes one shorter window.
    Windows run through the model one at a time. So the memory depends on the image and not on the
    number of windows: there is one map of scores at the size of the test image, and finally one at
    the size of the original image.

    Args:
        model: a semantic model; the wrapper takes over its mode (training or evaluation).
        crop_size: (height, width) of a window in pixels of the test image, >= 1.
        stride: (vertical, horizontal) step in pixels, from 1 to the side of the crop.
        pad_value: colour for padding images smaller than the crop, in the channels of the test
            image; None for no padding.

    Attributes:
        model: the model that is applied to each window.

    Raises:
        ValueError: there are not two numbers each, or the stride would leave gaps.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        crop_size: Sequence[int],
        stride: Sequence[int],
        pad_value: Sequence[float] | None = None,
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
        self.model = model
        self.crop_size = tuple(crop_size)
        self.stride = tuple(stride)
        self.pad_value = None if pad_value is None else tuple(pad_value)
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: Inputs) -> list[dict[str, Tensor]]:
        """Segment images.

        Args:
            batched_inputs: ``"image"`` (3, H, W), and ``"height"`` and ``"width"`` of the original
                image (by default H and W).

        Returns:
            For each image ``{"sem_seg": scores (K, height, width)}``.

        Raises:
            RuntimeError: the wrapper is in training mode.
        """
        _check_mode(self)
        return [{"sem_seg": self._segment(inputs)} for inputs in batched_inputs]

    def _segment(self, inputs: Mapping[str, Any]) -> Tensor:
        image = fix_traced_size(inputs["image"])
        height, width = image.shape[-2:]
        image = self._pad(image)
        sides = image.shape[-2:]
        rows, columns = (
            _windows(*side) for side in zip(sides, self.crop_size, self.stride, strict=True)
        )
        total = None
        for row in rows:
            for column in columns:
                scores = _predict(self.model, image[:, row, column])
                if total is None:
                    total = scores.new_zeros(len(scores), *sides)
                total[:, row, column] += scores
        # The number of windows over a pixel is that of its row times that of its column.
        total /= _counts(rows, sides[0]).to(total)[:, None]
        total /= _counts(columns, sides[1]).to(total)
        size = (inputs.get("height", height), inputs.get("width", width))
        return _resize(total[:, :height, :width], size)

    def _pad(self, image: Tensor) -> Tensor:
        """Pad an image at the bottom and right to the size of the crop if ``pad_value`` is set."""
        height, width = image.shape[-2:]
        padded_size = (max(height, self.crop_size[0]), max(width, self.crop_size[1]))
        if self.pad_value is None or padded_size == (height, width):
            return image
        colour = torch.tensor(self.pad_value, dtype=torch.float32, device=image.device)
        padded = colour[:, None, None].expand(-1, *padded_size).clone()
        padded[:, :height, :width] = image
        return padded


class MultiScaleFlip(nn.Module):
    """Averages class probabilities over several sizes of the image and of its mirror image.

    The scores of each view, at the size of the original image, go through a softmax over the
    classes before they are averaged. As in the original, this applies to all models, even to
    Mask2Former, whose scores are not logits.

    The views are made from the input image, which should be the original one: details lost by
    resizing it before are lost in all views. At each scale, the view has the proportions of the
    image and is as large as the limits times the scale, rounded down, allow.

    Args:
        model: a semantic model; the wrapper takes over its mode (training or evaluation).
        scales: one or more factors of the limits, > 0.
        flip: whether each size is also used mirrored from left to right.
        limits: largest longer and shorter side in pixels at a scale of 1, in any order; None for
            the sides of the image.
        min_side: the least shorter side at any scale, in pixels. If it is above 1, only the shorter
            side determines the size, as in SETR. For sliding windows, use the side of the crop:
            small scales then give views of the size of the crop.
        size_divisor: each side of a view is stretched to a multiple of this.

    Attributes:
        model: the model that is applied to each view.

    Raises:
        ValueError: there are no scales, or a number is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        scales: Sequence[float],
        flip: bool,
        limits: Sequence[int] | None = None,
        min_side: int = 1,
        size_divisor: int = 1,
    ) -> None:
        super().__init__()
        if not scales or any(not (math.isfinite(scale) and scale > 0) for scale in scales):
            raise ValueError(f"scales must be one or more numbers > 0, got {list(scales)}")
        if limits is not None and (len(limits) != 2 or min(limits) < 1):
            raise ValueError(f"limits must be two lengths in pixels >= 1, got {list(limits)}")
        for name, value in (("min_side", min_side), ("size_divisor", size_divisor)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self.model = model
        self.scales = tuple(scales)
        self.flip = flip
        self.limits = None if limits is None else (max(limits), min(limits))
        self.min_side = min_side
        self.size_divisor = size_divisor
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: Inputs) -> list[dict[str, Tensor]]:
        """Segment images; see :meth:`SlidingWindow.forward`. The scores are probabilities."""
        _check_mode(self)
        return [{"sem_seg": self._segment(inputs)} for inputs in batched_inputs]

    def _segment(self, inputs: Mapping[str, Any]) -> Tensor:
        image = fix_traced_size(inputs["image"])
        original = (inputs.get("height", image.shape[-2]), inputs.get("width", image.shape[-1]))
        total = None
        for scale in self.scales:
            size = self.view_size(*map(int, image.shape[-2:]), scale)
            view = _resize(image, size, antialias=True)
            for mirrored in (False, True) if self.flip else (False,):
                shown = view.flip(-1) if mirrored else view
                probabilities = _predict(self.model, shown, original).softmax(dim=0)
                if mirrored:
                    probabilities = probabilities.flip(-1)
                total = probabilities if total is None else total.add_(probabilities)
        return total.div_(len(self.scales) * (1 + self.flip))

    def view_size(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """Height and width of the view at a scale, given those of the image."""
        sides = (max(height, width), min(height, width))
        long, short = (int(limit * scale) for limit in self.limits or sides)
        if self.min_side > 1:
            short = max(short, self.min_side)
            long = short * sides[0] / sides[1]
        factor = min(long / sides[0], short / sides[1])
        view = (max(1, int(side * factor + 0.5)) for side in (height, width))
        new_height, new_width = (
            math.ceil(side / self.size_divisor) * self.size_divisor for side in view
        )
        return new_height, new_width


def _check_mode(wrapper: nn.Module) -> None:
    if wrapper.training:
        raise RuntimeError(
            f"{type(wrapper).__name__} is for testing, but is in training mode; call eval() first"
        )


def _predict(model: nn.Module, image: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Scores (K, height, width) of an image (3, H, W), at its own size unless given another."""
    height, width = size or image.shape[-2:]
    return model([{"image": image, "height": height, "width": width}])[0]["sem_seg"]


def _windows(length: int, crop: int, stride: int) -> list[slice]:
    """Cut a side of an image into windows as long as the crop, or as the side if shorter."""
    last = max(length - crop, 0)
    count = math.ceil(last / stride) + 1
    starts = [min(index * stride, last) for index in range(count)]
    return [slice(start, min(start + crop, length)) for start in starts]


def _counts(windows: Sequence[slice], length: int) -> Tensor:
    """The number of windows over each position of a side."""
    counts = torch.zeros(length)
    for window in windows:
        counts[window] += 1
    return counts


def _resize(image: Tensor, size: tuple[int, int], *, antialias: bool = False) -> Tensor:
    """Resize (C, H, W) bilinearly to (height, width); unchanged if it has this size."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(
        image[None].float(), size=size, mode="bilinear", align_corners=False, antialias=antialias
    )[0]
