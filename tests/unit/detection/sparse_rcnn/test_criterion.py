"""The losses of Sparse R-CNN against a plain loop."""

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import generalized_box_iou

from vit_adapter.detection import ProposalCriterion, ProposalMatcher
from vit_adapter.detection.sparse_rcnn.matcher import StagePredictions

SIZES = [(60, 90), (50, 40)]  # height, width
PROPOSALS, CLASSES, STAGES = 4, 3, 2


def random_boxes(count: int) -> Tensor:
    corners = torch.rand(count, 2, dtype=torch.float64) * 20
    return torch.cat([corners, corners + 5 + 15 * torch.rand(count, 2, dtype=torch.float64)], 1)


def make_targets(*counts: int) -> list[Instances]:
    return [
        Instances(
            size,
            gt_boxes=Boxes(random_boxes(count).float()),
            gt_classes=torch.arange(count) % CLASSES,
        )
        for size, count in zip(SIZES, counts, strict=True)
    ]


@pytest.fixture
def predictions() -> list[StagePredictions]:
    torch.manual_seed(0)
    return [
        StagePredictions(
            torch.randn(2, PROPOSALS, CLASSES, dtype=torch.float64).requires_grad_(),
            torch.stack([random_boxes(PROPOSALS) for _ in SIZES]).requires_grad_(),
        )
        for _ in range(STAGES)
    ]


def focal_loss(logit: float, positive: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    if positive:
        return -0.25 * (1 - p) ** 2 * math.log(p)
    return -0.75 * p**2 * math.log(1 - p)


def plain_losses(
    prediction: StagePredictions, targets: list[Instances], queries: list[int], chosen: list[int]
) -> dict[str, float]:
    """Sums over all proposals, divided by the number of pairs."""
    truth = [
        (image, label, box.double())
        for image, target in enumerate(targets)
        for label, box in zip(target.gt_classes.tolist(), target.gt_boxes.tensor, strict=True)
    ]
    owner = dict(zip(queries, chosen, strict=True))
    sums = {"cls": 0.0, "l1": 0.0, "giou": 0.0}
    for image, (height, width) in enumerate(SIZES):
        for index in range(PROPOSALS):
            own = owner.get(image * PROPOSALS + index)
            for label in range(CLASSES):
                positive = own is not None and truth[own][1] == label
                logit = prediction.logits[image, index, label].item()
                sums["cls"] += 2 * focal_loss(logit, positive)
            if own is None:
                continue
            assert truth[own][0] == image
            box, expected = prediction.boxes[image, index], truth[own][2]
            sides = (width, height, width, height)
            for value, wanted, side in zip(box.tolist(), expected.tolist(), sides, strict=True):
                sums["l1"] += 5 * abs(value / side - wanted / side)
            sums["giou"] += 2 * (1 - generalized_box_iou(box[None], expected[None]).item())
    return {name: value / max(len(owner), 1) for name, value in sums.items()}


@pytest.mark.parametrize("counts", [(2, 3), (0, 1), (0, 0), (6, 2)])
def test_losses_equal_a_plain_loop(
    predictions: list[StagePredictions], counts: tuple[int, int]
) -> None:
    """With images without boxes, and with more boxes than proposals."""
    targets = make_targets(*counts)
    matcher = ProposalMatcher()
    matches = matcher(predictions, targets)
    assert matches.queries.shape == (STAGES, sum(min(count, PROPOSALS) for count in counts))
    losses = ProposalCriterion(matcher=matcher)(predictions, targets)
    assert len(losses) == 3 * STAGES
    for stage, prediction in enumerate(predictions):
        pairs = (matches.queries[stage].tolist(), matches.targets[stage].tolist())
        for name, expected in plain_losses(prediction, targets, *pairs).items():
            assert losses[f"loss_{name}_stage{stage}"].item() == pytest.approx(expected)


def test_without_boxes_every_prediction_still_has_a_gradient(
    predictions: list[StagePredictions],
) -> None:
    losses = ProposalCriterion(matcher=ProposalMatcher())(predictions, make_targets(0, 0))
    sum(losses.values()).backward()
    for logits, boxes in predictions:
        assert (logits.grad > 0).all()  # all probabilities sink
        assert not boxes.grad.any()


def test_the_divisor_is_the_mean_over_the_processes(
    predictions: list[StagePredictions], monkeypatch: pytest.MonkeyPatch
) -> None:
    criterion, targets = ProposalCriterion(matcher=ProposalMatcher()), make_targets(2, 3)
    alone = criterion(predictions, targets)

    def add_other_process(tensor: Tensor) -> None:
        tensor += 15

    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", add_other_process)
    together = criterion(predictions, targets)
    for name, loss in alone.items():
        assert together[name].item() == pytest.approx(loss.item() * 5 / 10)
