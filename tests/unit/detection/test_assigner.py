"""Assignment of boxes to ground truth."""

import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou

from vit_adapter.detection import MaxIoUAssigner, assigner


def random_boxes(count: int) -> Boxes:
    corners = torch.randint(0, 8, (count, 2))  # a coarse grid, so that many overlaps are equal
    return Boxes(torch.cat([corners, corners + torch.randint(1, 6, (count, 2))], dim=1))


def slow(assigner: MaxIoUAssigner, truths: Boxes, boxes: Boxes) -> list[int]:
    """-1 ignored, 0 background, k the ground truth k - 1."""
    overlaps = pairwise_iou(truths, boxes).tolist()
    assigned = []
    for column in zip(*overlaps, strict=True):
        best = max(column)
        foreground = column.index(best) + 1 if best >= assigner.positive else -1
        assigned.append(0 if best < assigner.negative else foreground)
    for k, row in enumerate(overlaps):
        if assigner.low_quality and max(row) >= assigner.min_positive:
            assigned = [
                k + 1 if overlap == max(row) else old
                for overlap, old in zip(row, assigned, strict=True)
            ]
    return assigned


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("max_pairs", [1, 40, 2**22])
def test_equals_a_slow_loop(
    low_quality: bool, max_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in pieces, which bound the memory."""
    monkeypatch.setattr(assigner, "_MAX_PAIRS", max_pairs)
    assign = MaxIoUAssigner(positive=0.6, negative=0.3, min_positive=0.3, low_quality=low_quality)
    for truths in (1, 2, 7, 30):
        gt_boxes, boxes = random_boxes(truths), random_boxes(50)
        matches, labels = assign(gt_boxes, boxes)
        assigned = torch.where(labels > 0, matches + 1, labels)
        assert assigned.tolist() == slow(assign, gt_boxes, boxes)


def test_without_ground_truth_everything_is_background() -> None:
    assign = MaxIoUAssigner(positive=0.5, negative=0.5, min_positive=0.5, low_quality=True)
    _, labels = assign(Boxes(torch.zeros(0, 4)), random_boxes(3))
    assert labels.tolist() == [0, 0, 0]
    matches, labels = assign(random_boxes(3), Boxes(torch.zeros(0, 4)))
    assert len(matches) == len(labels) == 0


def test_few_overlaps_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def record(first: Boxes, second: Boxes) -> torch.Tensor:
        sizes.append(len(first) * len(second))
        return pairwise_iou(first, second)

    monkeypatch.setattr(assigner, "pairwise_iou", record)
    assign = MaxIoUAssigner(positive=0.7, negative=0.3, min_positive=0.3, low_quality=True)
    assign(random_boxes(2000), random_boxes(5000))
    assert sum(sizes) == 2 * 2000 * 5000
    assert max(sizes) <= 2**22


@pytest.mark.parametrize(("negative", "positive"), [(0.0, 0.5), (0.7, 0.5), (0.5, 1.5)])
def test_thresholds_must_be_ordered(negative: float, positive: float) -> None:
    with pytest.raises(ValueError, match="expected 0 < negative <= positive <= 1, got"):
        MaxIoUAssigner(positive=positive, negative=negative, min_positive=0.3, low_quality=True)
