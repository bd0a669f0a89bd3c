"""Losses of the detectors."""

import torch
from torchvision.ops import generalized_box_iou

from vit_adapter.detection import giou_loss


def test_giou_equals_torchvision() -> None:
    corners = 20 * torch.rand(2, 30, 2)
    boxes, targets = torch.cat([corners, corners + 1 + 20 * torch.rand(2, 30, 2)], dim=-1)
    expected = 1 - generalized_box_iou(boxes, targets).diagonal()
    torch.testing.assert_close(giou_loss(boxes, targets), expected)


def test_giou_of_boxes_without_area_is_finite() -> None:
    point = torch.tensor([[5.0, 5.0, 5.0, 5.0]], requires_grad=True)
    losses = giou_loss(point, torch.tensor([[5.0, 5.0, 5.0, 5.0]]))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert point.grad.isfinite().all()
