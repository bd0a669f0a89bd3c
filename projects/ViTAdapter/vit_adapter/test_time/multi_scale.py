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
        """Segment images as ``SlidingWindow.forward`` does; the scores are probabilities."""
        check_mode(self)
        return [{"sem_seg": self._segment(inputs)} for inputs in batched_inputs]

    def _segment(self, inputs: Mapping[str, Any]) -> Tensor:
        image = fix_traced_size(inputs["image"])
        original = (inputs.get("height", image.shape[-2]), inputs.get("width", image.shape[-1]))
        total = None
        for scale in self.scales:
            size = self.view_size(*map(int, image.shape[-2:]), scale)
            view = resize(image, size, antialias=True)
            for mirrored in (False, True) if self.flip else (False,):
                shown = view.flip(-1) if mirrored else view
                probabilities = predict(self.model, shown, original).softmax(dim=0)
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
