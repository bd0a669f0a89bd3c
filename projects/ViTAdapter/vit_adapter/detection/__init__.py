"""Detectors as the original trains them, where Detectron2's own parts give other numbers."""

from vit_adapter.detection.assigner import MaxIoUAssigner
from vit_adapter.detection.box_transform import ClampedBox2BoxTransform
from vit_adapter.detection.losses import giou_loss

__all__ = ["ClampedBox2BoxTransform", "MaxIoUAssigner", "giou_loss"]
