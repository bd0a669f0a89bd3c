"""The box coder."""

import math

import torch
from detectron2.modeling.box_regression import Box2BoxTransform

from vit_adapter.detection import ClampedBox2BoxTransform

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
BOXES = torch.tensor([[0.0, 0.0, 16.0, 16.0], [3.0, 5.0, 40.0, 9.0]])


def test_equals_detectron2_within_the_limits() -> None:
    deltas = torch.randn(2, 12)
    expected = Box2BoxTransform(WEIGHTS).apply_deltas(deltas, BOXES)
    computed = ClampedBox2BoxTransform(WEIGHTS).apply_deltas(deltas, BOXES)
    torch.testing.assert_close(computed, expected)


def test_sizes_are_limited_in_both_directions() -> None:
    deltas = torch.tensor([[0.0, 0.0, 100.0, -100.0]]) * 5
    boxes = ClampedBox2BoxTransform(WEIGHTS).apply_deltas(deltas, BOXES[:1])
    torch.testing.assert_close(boxes, torch.tensor([[-492.0, 7.872, 508.0, 8.128]]))
    assert ClampedBox2BoxTransform(WEIGHTS).scale_clamp == math.log(1000 / 16)


def test_boxes_are_decoded_in_float32_or_wider() -> None:
    transform = ClampedBox2BoxTransform(WEIGHTS)
    deltas = torch.zeros(2, 4)
    assert transform.apply_deltas(deltas.bfloat16(), BOXES).equal(BOXES)
    assert transform.apply_deltas(deltas.double(), BOXES).dtype == torch.float64


def test_no_boxes() -> None:
    decoded = ClampedBox2BoxTransform(WEIGHTS).apply_deltas(torch.zeros(0, 8), torch.zeros(0, 4))
    assert decoded.shape == (0, 8)
