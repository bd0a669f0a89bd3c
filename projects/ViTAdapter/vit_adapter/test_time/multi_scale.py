"""Testing semantic models at several scales with flipped images.

The class wraps any model that maps Detectron2's ``batched_inputs`` to ``[{"sem_seg": scores}]``,
and is such a model itself, e.g. ``MultiScaleFlip(SlidingWindow(model, ...), ...)``.

Shapes: K classes, H/W sides of the test image (from the mapper).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vit_adapter.layers import fix_traced_size
from vit_adapter.test_time.parts import Inputs, check_mode, predict, resize


class MultiScaleFlip(nn.Module):
    """Averages class probabilities over several sizes of the image and of its mirror image.

    The scores of each view, at the size of the original image, go through a softmax over the
    classes before they are averaged. As in the original, this applies to all models, even to
    Mask2Former, whose scores are not logits.

    The views are made from the input image, which should be the original one: details lost by
    resizing it before are lost in all views. They are resized with Pillow's bilinear filter, but
    not rounded to whole grey levels. At each scale, the view has the proportions of the image and
    is as large as the limits times the scale, rounded down, allow. Lengths of the shorter side can
    be given instead of scales; nothing limits the longer side then.

    Args:
        model: a semantic model; the wrapper takes over its mode (training or evaluation).
        flip: whether each size is also used mirrored from left to right.
        scales: one or more factors of the limits, > 0; None if ``short_sides`` are given.
        short_sides: one or more lengths of a view's shorter side in pixels, >= 1; None if
            ``scales`` are given.
        limits: largest longer and shorter side in pixels at a scale of 1, in any order; None for
            the sides of the image. Only for ``scales``.
        min_side: the least shorter side at any scale, in pixels. If it is above 1, only the shorter
            side determines the size, as in SETR. For sliding windows, use the side of the crop:
            small scales then give views of the size of the crop. Only for ``scales``.
        size_divisor: each side of a view is stretched to a multiple of this.

    Attributes:
        model: the model that is applied to each view.

    Raises:
        ValueError: there are neither scales nor short sides, or both, or a number is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        flip: bool,
        scales: Sequence[float] | None = None,
        short_sides: Sequence[int] | None = None,
        limits: Sequence[int] | None = None,
        min_side: int = 1,
        size_divisor: int = 1,
    ) -> None:
        super().__init__()
        _check_sizes(scales, short_sides)
        if limits is not None and (len(limits) != 2 or min(limits) < 1):
            raise ValueError(f"limits must be two lengths in pixels >= 1, got {list(limits)}")
        for name, value in (("min_side", min_side), ("size_divisor", size_divisor)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self.model = model
        self.scales = None if scales is None else tuple(scales)
        self.short_sides = None if short_sides is None else tuple(short_sides)
        self.flip = flip
        self.limits = None if limits is None else (max(limits), min(limits))
        self.min_side = min_side
        self.size_divisor = size_divisor
        self.training = model.training

    @torch.no_grad()
    def forward(self, batched_inputs: Inputs) -> list[dict[str, Tensor]]:
        """Segment images as ``SlidingWindow.forward`` does; the scores are probabilities."""
        check_mode(self)
        return [{"sem_seg": self._segment(inputs)} for inputs in batched_inputs]

    def _segment(self, inputs: Mapping[str, Any]) -> Tensor:
        image = fix_traced_size(inputs["image"])
        original = (inputs.get("height", image.shape[-2]), inputs.get("width", image.shape[-1]))
        total = None
        sizes = self.view_sizes(*map(int, image.shape[-2:]))
        for size in sizes:
            view = resize(image, size, antialias=True)
            for mirrored in (False, True) if self.flip else (False,):
                shown = view.flip(-1) if mirrored else view
                probabilities = predict(self.model, shown, original).softmax(dim=0)
                if mirrored:
                    probabilities = probabilities.flip(-1)
                total = probabilities if total is None else total.add_(probabilities)
        return total.div_(len(sizes) * (1 + self.flip))

    def view_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width of each view, given those of the image."""
        if self.short_sides is not None:
            views = [_with_short_side(height, width, side) for side in self.short_sides]
        else:
            views = [self._scaled(height, width, scale) for scale in self.scales]
        divisor = self.size_divisor
        return [(_round_up(high, divisor), _round_up(wide, divisor)) for high, wide in views]

    def _scaled(self, height: int, width: int, scale: float) -> tuple[int, int]:
        sides = (max(height, width), min(height, width))
        long, short = (float(int(limit * scale)) for limit in self.limits or sides)
        if self.min_side > 1:
            short = max(short, self.min_side)
            long = short * sides[0] / sides[1]
        factor = min(long / sides[0], short / sides[1])
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def _with_short_side(height: int, width: int, short: int) -> tuple[int, int]:
    """The size with a given shorter side; the longer one is rounded half up."""
    if height <= width:
        return short, int(short * width / height + 0.5)
    return int(short * height / width + 0.5), short


def _round_up(side: int, divisor: int) -> int:
    return math.ceil(side / divisor) * divisor


def _check_sizes(scales: Sequence[float] | None, short_sides: Sequence[int] | None) -> None:
    """Raise a ValueError unless exactly one of the two is given, with numbers in range."""
    if (scales is None) == (short_sides is None):
        raise ValueError(
            "exactly one of scales and short_sides must be given, and the other one be None, "
            f"got scales {scales} and short_sides {short_sides}"
        )
    if scales is not None:
        if not scales or any(not (math.isfinite(scale) and scale > 0) for scale in scales):
            raise ValueError(f"scales must be one or more numbers > 0, got {list(scales)}")
    elif not short_sides or any(side != int(side) or side < 1 for side in short_sides):
        raise ValueError(
            f"short_sides must be one or more lengths in whole pixels >= 1, got {list(short_sides)}"
        )
