"""Matching: the assignment of least cost, one transfer, bad numbers."""

import pytest
import torch

from vit_adapter.mask2former import HungarianMatcher, MaskPredictions, MaskTargets


def quarters() -> torch.Tensor:
    """Masks (4, 8, 8) of the four quarters of an image."""
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    for i in range(4):
        masks[i, i // 2 * 4 : i // 2 * 4 + 4, i % 2 * 4 : i % 2 * 4 + 4] = True
    return masks


def logits_of(masks: torch.Tensor) -> torch.Tensor:
    return masks.float() * 20 - 10


def test_finds_the_masks() -> None:
    masks = quarters()
    first = MaskPredictions(torch.zeros(2, 4, 4), logits_of(torch.stack([masks, masks.flip(0)])))
    order = torch.tensor([2, 0, 3, 1])
    second = MaskPredictions(torch.zeros(2, 4, 4), first.mask_logits[:, order])
    targets = [
        MaskTargets(torch.tensor([0, 1]), masks[1:3]),
        MaskTargets(torch.tensor([2]), masks[:1]),
    ]
    matches = HungarianMatcher(num_points=500)([first, second], targets)
    assert matches.targets.tolist() == [[0, 1, 2]] * 2
    assert matches.queries[0].tolist() == [1, 2, 4 + 3]
    # quarter 1 is now query 3, quarter 2 is query 0; in the second image, quarter 3 is query 2
    assert matches.queries[1].tolist() == [3, 0, 4 + 2]


def test_the_class_decides_between_equal_masks() -> None:
    masks = quarters()[[0, 0]]
    class_logits = torch.tensor([[[0.0, 5.0, 0.0], [5.0, 0.0, 0.0]]])
    predictions = MaskPredictions(class_logits, logits_of(masks)[None])
    matches = HungarianMatcher(num_points=50)(
        [predictions], [MaskTargets(torch.tensor([0, 1]), masks)]
    )
    assert matches.queries.tolist() == [[1, 0]]


def test_costs_equal_their_definitions() -> None:
    matcher = HungarianMatcher(num_points=60, cost_class=2.0, cost_mask=3.0, cost_dice=4.0)
    class_logits = torch.randn(3, 5, dtype=torch.float64)
    logits = torch.randn(3, 60, dtype=torch.float64) * 4
    labels = torch.tensor([1, 3])
    truth = torch.rand(2, 60, dtype=torch.float64)
    costs = matcher._pairwise_costs(class_logits, logits, labels, truth)
    for target in range(2):
        for query in range(3):
            p, t = logits[query].sigmoid(), truth[target]
            entropy = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
            dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
            probability = class_logits[query].softmax(-1)[labels[target]]
            expected = -2 * probability + 3 * entropy + 4 * dice
            torch.testing.assert_close(costs[target, query], expected)


@pytest.mark.parametrize(("counts", "pairs"), [((0, 0), 0), ((0, 2), 2), ((9, 1), 5), ((9, 9), 8)])
def test_counts(counts: tuple[int, ...], pairs: int) -> None:
    predictions = MaskPredictions(torch.randn(2, 4, 3), torch.randn(2, 4, 8, 8))
    targets = [
        MaskTargets(torch.zeros(n, dtype=torch.int64), torch.rand(n, 16, 16) > 0.5) for n in counts
    ]
    matches = HungarianMatcher(num_points=20)([predictions] * 3, targets)
    assert matches.queries.shape == matches.targets.shape == (3, pairs)
    for queries, indices in zip(*matches, strict=True):
        assert len(set(queries.tolist())) == len(set(indices.tolist())) == pairs
        assert ((queries >= 4) == (indices >= counts[0])).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_are_located(bad: float) -> None:
    good = MaskPredictions(torch.randn(2, 4, 3), torch.randn(2, 4, 8, 8))
    masks = good.mask_logits.clone()
    masks[1, 2] = bad
    targets = [MaskTargets(torch.tensor([0]), torch.rand(1, 16, 16) > 0.5)] * 2
    with pytest.raises(FloatingPointError, match="image 1 .* in prediction 1 of 2"):
        HungarianMatcher(num_points=9)([good, MaskPredictions(good.class_logits, masks)], targets)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_points": 0}, "num_points must be at least 1, got 0"),
        ({"cost_mask": -1.0}, "must not be negative nor all zero"),
        ({"cost_class": 0, "cost_mask": 0, "cost_dice": 0}, "must not be negative nor all zero"),
    ],
)
def test_arguments_that_do_not_fit(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HungarianMatcher(**changes)
