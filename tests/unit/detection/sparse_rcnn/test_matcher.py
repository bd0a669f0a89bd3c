"""Matching of proposals and objects."""

from itertools import permutations

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import generalized_box_iou

from vit_adapter.detection import ProposalMatcher
from vit_adapter.detection.sparse_rcnn.matcher import StagePredictions

HEIGHT, WIDTH, CLASSES = 60, 90, 3


def random_boxes(count: int) -> Tensor:
    corners = torch.rand(count, 2, dtype=torch.float64) * 40
    return torch.cat([corners, corners + 5 + 40 * torch.rand(count, 2, dtype=torch.float64)], 1)


def make_target(boxes: Tensor) -> Instances:
    classes = torch.arange(len(boxes)) % CLASSES
    return Instances((HEIGHT, WIDTH), gt_boxes=Boxes(boxes.float()), gt_classes=classes)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_costs_equal_their_definitions() -> None:
    logits = 3 * torch.randn(4, CLASSES, dtype=torch.float64)
    boxes, target = random_boxes(4), make_target(random_boxes(5))
    matcher = ProposalMatcher(cost_class=2.0, cost_l1=5.0, cost_giou=3.0)
    costs = matcher.costs(logits, boxes, target)
    assert costs.shape == (5, 4)
    scale = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT], dtype=torch.float64)
    truth = target.gt_boxes.tensor.double()
    for i, label in enumerate(target.gt_classes.tolist()):
        for j in range(4):
            p = logits[j, label].sigmoid()
            present = -0.25 * (1 - p) ** 2 * p.log()
            absent = -0.75 * p**2 * (1 - p).log()
            l1 = ((truth[i] - boxes[j]) / scale).abs().sum()
            giou = generalized_box_iou(truth[i : i + 1], boxes[j : j + 1])[0, 0]
            expected = 2 * (present - absent) + 5 * l1 - 3 * giou
            torch.testing.assert_close(costs[i, j], expected)


@pytest.mark.parametrize("count", [3, 4, 6])
def test_no_assignment_costs_less(count: int) -> None:
    """Also with more objects than proposals: the best of them are learned."""
    logits = torch.randn(2, 4, CLASSES, dtype=torch.float64)
    boxes = torch.stack([random_boxes(4), random_boxes(4)])
    target = make_target(random_boxes(count))
    matcher = ProposalMatcher()
    stages = [StagePredictions(logits[i : i + 1], boxes[i : i + 1]) for i in range(2)]
    matches = matcher(stages, [target])
    assert matches.queries.shape == (2, min(count, 4))
    for stage in range(2):
        costs = matcher.costs(logits[stage], boxes[stage], target)
        total = costs[matches.targets[stage], matches.queries[stage]].sum()
        wide = costs if count <= 4 else costs.T
        best = min(
            sum(wide[row, column] for row, column in enumerate(columns))
            for columns in permutations(range(wide.shape[1]), wide.shape[0])
        )
        assert total == pytest.approx(float(best))


def test_certain_classes_cost_a_finite_amount() -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0]])
    boxes = torch.tensor([[0.0, 0.0, 5.0, 5.0]])
    target = make_target(boxes.double().expand(2, 4))
    assert ProposalMatcher().costs(logits, boxes, target).isfinite().all()


def test_predictions_that_are_not_numbers() -> None:
    boxes = torch.full((1, 2, 4), float("nan"))
    predictions = StagePredictions(torch.zeros(1, 2, CLASSES), boxes)
    with pytest.raises(FloatingPointError, match="image 0 .* infinite or not a number"):
        ProposalMatcher()([predictions], [make_target(random_boxes(1))])
