"""The box coder of the original."""

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor

from vit_adapter.detection.boxes import box_centers, in_float32

__all__ = ["ClampedBox2BoxTransform"]


class ClampedBox2BoxTransform(Box2BoxTransform):
    """Detectron2's coder, with the changes of size limited in both directions.

    Detectron2 limits only how much a box may grow, so that a bad prediction can shrink it to
    nothing. Arguments and encoding are Detectron2's: ``weights`` are 1 / std.
    """

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Decode boxes, without clipping them to the image.

        Args:
            deltas: (..., K * 4), for K classes (dx, dy, dw, dh).
            boxes: (..., 4), x1, y1, x2, y2 in pixels.

        Returns:
            (..., K * 4), in float32 or wider.
        """
        deltas = in_float32(deltas)
        boxes = boxes.to(deltas.dtype).unsqueeze(-2)
        sizes = boxes[..., 2:] - boxes[..., :2]
        scaled = deltas.unflatten(-1, (-1, 4)) / deltas.new_tensor(self.weights)
        shifts, scales = scaled.split(2, dim=-1)
        centers = box_centers(boxes) + shifts * sizes
        half = sizes * scales.clamp(-self.scale_clamp, self.scale_clamp).exp() / 2
        return torch.cat([centers - half, centers + half], dim=-1).flatten(-2)
