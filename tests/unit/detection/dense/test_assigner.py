"""The assigner against a slow loop, and on boxes that real data contain."""

import pytest
import torch
from torch import Tensor

from vit_adapter.detection.dense import assigner
from vit_adapter.detection.dense.assigner import match_anchors, nearest_anchors

TOPK = 9


def make_anchors(height: int, width: int, strides: tuple[int, ...] = (8, 16, 32)) -> list[Tensor]:
    """Square anchors of 8 strides, one per cell."""
    levels = []
    for stride in strides:
        y, x = torch.arange(0, height, stride), torch.arange(0, width, stride)
        centers = torch.cartesian_prod(y, x).flip(1).double()
        levels.append(torch.cat((centers - 4 * stride, centers + 4 * stride), dim=1))
    return levels


def make_boxes(count: int, size: float = 96.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator).double() * size
    sides = torch.rand(count, 2, generator=generator).double() * size / 2 + 4
    return torch.cat((corners, corners + sides), dim=1)


def iou(first: list[float], second: list[float]) -> float:
    sides = [min(first[i + 2], second[i + 2]) - max(first[i], second[i]) for i in (0, 1)]
    inside = max(sides[0], 0) * max(sides[1], 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return inside / (sum(areas) - inside)


def match_slowly(levels: list[Tensor], boxes: Tensor) -> list[int]:
    """The same rules, one anchor and one box at a time."""
    anchors = torch.cat(levels).tolist()
    best = [(-1.0, -1)] * len(anchors)
    for index, box in enumerate(boxes.tolist()):
        candidates, start = [], 0
        for level in levels:
            distances = []
            for i in range(start, start + len(level)):
                offsets = [
                    (anchors[i][a] + anchors[i][a + 2] - box[a] - box[a + 2]) / 2 for a in (0, 1)
                ]
                distances.append((offsets[0] ** 2 + offsets[1] ** 2, i))
            candidates += [i for _, i in sorted(distances)[:TOPK]]
            start += len(level)
        overlaps = [iou(anchors[i], box) for i in candidates]
        mean = sum(overlaps) / len(overlaps)
        variance = sum((value - mean) ** 2 for value in overlaps) / (len(overlaps) - 1)
        for i, value in zip(candidates, overlaps, strict=True):
            x, y = [(anchors[i][a] + anchors[i][a + 2]) / 2 for a in (0, 1)]
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if inside and value >= mean + variance**0.5 and value > best[i][0]:
                best[i] = (value, index)
    return [index for _, index in best]


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_slow_loop(seed: int) -> None:
    levels, boxes = make_anchors(96, 128), make_boxes(12, seed=seed)
    matched, ious = match_anchors(levels, boxes, topk=TOPK)
    assert matched.tolist() == match_slowly(levels, boxes)
    assert (matched >= 0).sum() > 10
    assert torch.equal(ious < 0, matched < 0)


def test_of_equal_boxes_the_first_gets_the_anchors() -> None:
    boxes = make_boxes(1).repeat(3, 1)
    matched, _ = match_anchors(make_anchors(96, 96), boxes)
    assert set(matched.tolist()) == {-1, 0}


def test_without_boxes_all_is_background() -> None:
    matched, ious = match_anchors(make_anchors(64, 64), torch.zeros(0, 4).double())
    assert set(matched.tolist()) == {-1} and set(ious.tolist()) == {-1.0}


@pytest.mark.parametrize(
    ("box", "gets_anchors"),
    [
        ([15.5, 15.5, 16.5, 16.5], True),  # one pixel around the centre of an anchor
        ([18.0, 18.0, 19.0, 19.0], False),  # one pixel between centres
        ([15.995, 15.995, 16.005, 16.005], False),  # the centre is too close to the sides
        ([20.0, 20.0, 20.0, 20.0], False),  # empty
        ([-50.0, -50.0, -10.0, -10.0], False),  # outside the image
        ([-50.0, -50.0, 40.0, 40.0], True),
        ([-500.0, -500.0, 500.0, 500.0], True),  # larger than all anchors
    ],
)
def test_unusual_boxes(box: list[float], gets_anchors: bool) -> None:
    matched, ious = match_anchors(make_anchors(64, 64), torch.tensor([box]).double())
    assert bool((matched == 0).any()) == gets_anchors
    assert ious.isfinite().all()


def test_a_level_may_have_no_usable_anchor() -> None:
    levels, boxes = make_anchors(96, 96), make_boxes(5)
    matched, _ = match_anchors([*levels, torch.zeros(0, 4).double()], boxes)
    assert torch.equal(matched, match_anchors(levels, boxes)[0])


def test_many_boxes_are_compared_with_the_anchors_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    levels, boxes = make_anchors(256, 256), make_boxes(2000, size=256)
    expected = match_anchors(levels, boxes)
    limit, largest = 50_000, []
    monkeypatch.setattr(assigner, "_MAX_DISTANCES", limit)
    nearest = assigner._nearest

    def record(points: Tensor, targets: Tensor, count: int) -> Tensor:
        largest.append(len(points) * len(targets))
        return nearest(points, targets, count)

    monkeypatch.setattr(assigner, "_nearest", record)
    actual = match_anchors(levels, boxes)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    assert max(largest) <= limit < len(levels[0]) * len(boxes)


def test_a_small_level_gives_all_its_anchors() -> None:
    levels = make_anchors(64, 64)  # 64, 16 and 4 anchors
    candidates = nearest_anchors(levels, make_boxes(3), topk=TOPK)
    assert candidates.shape == (9 + 9 + 4, 3)
    assert sorted(candidates[-4:, 0].tolist()) == [80, 81, 82, 83]
