"""Soft-NMS against a slow, obvious loop, at its limits, and with bad input."""

import math
import sys

import pytest
import torch
from detectron2.layers import batched_nms
from torch import Tensor

from vit_adapter.detection import soft_nms

METHODS = ["linear", "gaussian"]


def random_boxes(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 40
    sides = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 30 + 1
    scores = torch.rand(count, generator=generator, dtype=torch.float64)
    classes = torch.randint(0, 3, (count,), generator=generator)
    return torch.cat([corners, corners + sides], dim=1), scores, classes


def slow_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow_soft_nms(
    boxes: Tensor, scores: Tensor, classes: Tensor, method: str, least: float
) -> list[tuple[int, float]]:
    left = dict(enumerate(scores.tolist()))
    kept = []
    while left:
        best = max(left, key=left.get)
        kept.append((best, left.pop(best)))
        for other in list(left):
            if classes[other] == classes[best]:
                iou = slow_iou(boxes[best].tolist(), boxes[other].tolist())
                linear = 1 - iou if iou >= 0.5 else 1
                left[other] *= linear if method == "linear" else math.exp(-(iou**2) / 0.5)
            if left[other] < least:
                del left[other]
    return kept


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("least", [0.0, 0.001, 0.1])
def test_equals_the_slow_loop(method: str, least: float) -> None:
    boxes = random_boxes(60)
    expected = slow_soft_nms(*boxes, method, least)
    index, scores = soft_nms(*boxes, method=method, min_score=least)
    assert index.tolist() == [place for place, _ in expected]
    assert scores.tolist() == pytest.approx([score for _, score in expected], rel=1e-12)
    assert (scores < boxes[1][index]).any()


@pytest.mark.parametrize("method", METHODS)
def test_many_boxes_run_class_by_class(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores, classes = random_boxes(60)
    monkeypatch.setattr(sys.modules["vit_adapter.detection.soft_nms"], "_SPLIT", 60)
    index, lowered = soft_nms(boxes, scores, classes, method=method, min_score=0.1)
    expected = []
    for number in range(3):
        (place,) = (classes == number).nonzero(as_tuple=True)
        of_class = boxes[place], scores[place], classes[place]
        expected += [(int(place[i]), s) for i, s in slow_soft_nms(*of_class, method, 0.1)]
    expected.sort(key=lambda one: -one[1])
    assert index.tolist() == [place for place, _ in expected]
    assert lowered.tolist() == pytest.approx([score for _, score in expected], rel=1e-12)


def swapping_soft_nms(boxes: Tensor, scores: Tensor, classes: Tensor, least: float) -> list[int]:
    """The linear procedure of mmcv, step by step: it swaps boxes in place."""
    rows = list(zip(range(len(boxes)), boxes.tolist(), scores.tolist(), classes, strict=True))
    first = 0
    while first < len(rows):
        best = max(range(first, len(rows)), key=lambda place: rows[place][2])
        rows[first], rows[best] = rows[best], rows[first]
        place = first + 1
        while place < len(rows):
            index, box, score, label = rows[place]
            iou = slow_iou(rows[first][1], box) if label == rows[first][3] else 0.0
            score *= 1 - iou if iou >= 0.5 else 1
            rows[place] = (index, box, score, label)
            if score < least:
                rows[place] = rows[-1]
                rows.pop()
            else:
                place += 1
        first += 1
    return [row[0] for row in rows]


def test_equal_scores_have_the_order_of_the_original() -> None:
    for seed in range(5):
        boxes, scores, _ = random_boxes(60, seed)
        scores, classes = scores.mul(4).ceil() / 4, torch.zeros(60)
        index, _ = soft_nms(boxes, scores, classes, min_score=0.2)
        assert index.tolist() == swapping_soft_nms(boxes, scores, classes, 0.2)


@pytest.mark.parametrize(
    "limit", [{"method": "linear", "iou_threshold": 2.0}, {"method": "gaussian", "sigma": math.inf}]
)
def test_at_its_limit_nothing_changes(limit: dict) -> None:
    boxes, scores, classes = random_boxes(60)
    index, lowered = soft_nms(boxes, scores, classes, **limit, min_score=0.0)
    assert torch.equal(index, scores.argsort(descending=True))
    assert torch.equal(lowered, scores[index])


def test_at_its_other_limit_any_overlap_removes_a_box() -> None:
    boxes, scores, classes = random_boxes(60)
    index, lowered = soft_nms(boxes, scores, classes, method="gaussian", sigma=1e-12)
    assert torch.equal(index, batched_nms(boxes, scores.float(), classes, 0.0))
    assert torch.equal(lowered, scores[index])


@pytest.mark.parametrize("method", METHODS)
def test_no_boxes(method: str) -> None:
    index, scores = soft_nms(*random_boxes(0), method=method)
    assert index.tolist() == [] and index.dtype == torch.int64 and scores.tolist() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "hard"}, "linear or gaussian, got 'hard'"),
        ({"iou_threshold": -0.1}, "iou_threshold must be >= 0, got -0.1"),
        ({"sigma": 0.0}, "sigma must be > 0, got 0.0"),
        ({"min_score": math.nan}, "min_score must be >= 0, got nan"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        soft_nms(*random_boxes(2), **arguments)
