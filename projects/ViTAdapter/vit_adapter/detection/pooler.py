"""Pooling of the features of regions."""

from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor

from vit_adapter.detection.boxes import in_float32

__all__ = ["FullPrecisionPooler"]


class FullPrecisionPooler(ROIPooler):
    """Detectron2's pooler, which in mixed precision keeps the boxes in float32, as the original.

    Detectron2 rounds boxes to the type of the maps. In bfloat16 this moves a box by up to 4 pixels
    if it lies beyond pixel 1024 of the image. Arguments are those of ``ROIPooler``.
    """

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Pool the features (R, C, side, side) of all boxes, in the type of the maps.

        Args:
            x: maps (B, C, h, w), one for each scale.
            box_lists: the boxes of each of the B images, in pixels; R in all.
        """
        return super().forward([in_float32(level) for level in x], box_lists).to(x[0].dtype)
