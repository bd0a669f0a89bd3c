"""Losses of the detectors."""

import torch
from torch.profiler import ProfilerActivity, profile
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


def test_giou_never_waits_for_a_gpu() -> None:
    """No value is read from a tensor, not even in the backward pass of boxes that do not meet."""
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]], requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        giou_loss(boxes, torch.tensor([[6.0, 6.0, 9.0, 9.0]])).sum().backward()
    called = {event.key for event in recorded.key_averages()}
    assert "aten::mul" in called
    assert "aten::item" not in called
