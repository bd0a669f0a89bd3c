"""Sampling of regions."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from vit_adapter.detection import MaxIoUAssigner, sample_regions

ASSIGNER = MaxIoUAssigner(positive=0.5, negative=0.5, min_positive=0.5, low_quality=False)
TRUTHS = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 40.0]])
PROPOSALS = torch.tensor([[50.0, 50.0, 60.0, 60.0], [20.0, 20.0, 30.0, 38.0]])


def targets(boxes: torch.Tensor) -> Instances:
    return Instances((64, 64), gt_boxes=Boxes(boxes), gt_classes=torch.arange(len(boxes)) % 2)


def sample(proposals: torch.Tensor, truths: torch.Tensor, batch_size: int = 512) -> Instances:
    (regions,) = sample_regions(
        [Instances((64, 64), proposal_boxes=Boxes(proposals))],
        [targets(truths)],
        assigner=ASSIGNER,
        num_classes=2,
        batch_size=batch_size,
        positive_fraction=0.25,
    )
    return regions


def test_ground_truth_comes_first_and_is_its_own() -> None:
    regions = sample(PROPOSALS, TRUTHS)
    order = torch.cat([TRUTHS, PROPOSALS[1:], PROPOSALS[:1]])  # foreground first
    assert regions.proposal_boxes.tensor.equal(order)
    assert regions.is_gt.tolist() == [True] * 3 + [False] * 2
    assert regions.gt_index.tolist() == [0, 1, 2, 2, 0]  # though two truths are equal
    assert regions.gt_classes.tolist() == [0, 1, 0, 0, 2]
    assert regions.gt_boxes.tensor.equal(torch.cat([TRUTHS, TRUTHS[2:], PROPOSALS[:1]]))


def test_at_most_a_share_is_foreground() -> None:
    background = PROPOSALS[:1].repeat(100, 1)
    regions = sample(background, TRUTHS, batch_size=8)
    assert regions.gt_classes.tolist().count(2) == 6
    assert len(regions) == 8
    assert len(set(regions.gt_index[:2].tolist())) == 2  # different ones


@pytest.mark.parametrize("count", [0, 4])
def test_an_image_without_ground_truth(count: int) -> None:
    regions = sample(PROPOSALS[:1].repeat(count, 1), TRUTHS[:0])
    assert regions.gt_classes.tolist() == [2] * count
    assert regions.gt_boxes.tensor.equal(regions.proposal_boxes.tensor)
    assert not regions.is_gt.any()
