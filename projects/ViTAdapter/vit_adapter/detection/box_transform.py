"""The box coder of the original."""

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor

__all__ = ["ClampedBox2BoxTransform"]


class ClampedBox2BoxTransform(Box2BoxTransform):
    """Detectron2's coder, with the changes of size limited in both directions.

    Detectron2 limits only how much a box may grow, so that a bad prediction can shrink it to
    nothing. Arguments and encoding are Detectron2's: ``weights`` are 1 / std.
    """

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Decode boxes, without clipping them to the image.

        Args:
            deltas: (N, K * 4), for K classes (dx, dy, dw, dh).
            boxes: (N, 4), x1, y1, x2, y2 in pixels.

        Returns:
            (N, K * 4), in float32 or wider.
        """
        deltas = deltas.float() if deltas.itemsize < 4 else deltas
        boxes = boxes.to(deltas.dtype)
        sizes = (boxes[:, 2:] - boxes[:, :2])[:, None]
        centres = boxes[:, None, :2] + 0.5 * sizes
        scaled = deltas.view(len(deltas), deltas.shape[1] // 4, 4) / deltas.new_tensor(self.weights)
        shifts, scales = scaled.split(2, dim=-1)
        centres = centres + shifts * sizes
        half = 0.5 * sizes * scales.clamp(-self.scale_clamp, self.scale_clamp).exp()
        return torch.cat([centres - half, centres + half], dim=-1).view(deltas.shape)
