"""Detectron2 in float64."""

import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.structures import Boxes
from torch import Tensor
from torch.nn import functional
from torchvision.ops import batched_nms


class Float64ROIAlign(ROIAlign):
    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        return super().forward(input.double(), rois)


def keep_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build everything in float64, which Detectron2's boxes, masks, losses and NMS then keep."""

    def keep(boxes: Boxes, tensor: Tensor) -> None:
        boxes.tensor = tensor.reshape(-1, 4)

    monkeypatch.setattr(Boxes, "__init__", keep)
    monkeypatch.setattr("detectron2.structures.masks.ROIAlign", Float64ROIAlign)
    for module in ("roi_heads.fast_rcnn", "proposal_generator.proposal_utils"):
        monkeypatch.setattr(f"detectron2.modeling.{module}.batched_nms", batched_nms)
    cross_entropy = functional.binary_cross_entropy_with_logits
    monkeypatch.setattr(
        functional,
        "binary_cross_entropy_with_logits",
        lambda logits, targets, **options: cross_entropy(logits, targets.to(logits), **options),
    )
    torch.set_default_dtype(torch.float64)
