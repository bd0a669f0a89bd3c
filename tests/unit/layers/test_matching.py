"""One-to-one matching: the assignment of least cost, its indices, bad numbers."""

from itertools import permutations

import pytest
import torch

from vit_adapter.layers.matching import match_at_least_cost


@pytest.mark.parametrize(("num_targets", "num_queries"), [(3, 5), (4, 4), (5, 3)])
def test_no_assignment_costs_less(num_targets: int, num_queries: int) -> None:
    cost = torch.randn(num_targets, num_queries)
    matches = match_at_least_cost([[cost]])
    total = cost[matches.targets[0], matches.queries[0]].sum()
    wide = cost if num_targets <= num_queries else cost.T
    best = min(
        sum(wide[row, column] for row, column in enumerate(columns))
        for columns in permutations(range(wide.shape[1]), wide.shape[0])
    )
    assert total == pytest.approx(float(best), rel=1e-5)


def test_indices_count_through_the_batch() -> None:
    """Two predictions of three images with 3 queries each; the second image has no target."""
    near = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    costs = [[near, near.flip(1)], [near[:0]] * 2, [near[:1], near[:1] - near[1:]]]
    matches = match_at_least_cost(costs)
    assert matches.targets.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert matches.queries.tolist() == [[1, 2, 6 + 1], [1, 0, 6 + 1]]
    assert matches.queries.dtype == matches.targets.dtype == torch.int64


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_numbers_are_located(bad: float) -> None:
    broken = torch.zeros(1, 2)
    broken[0, 1] = bad
    with pytest.raises(FloatingPointError, match="image 1 .* in prediction 1 of 2"):
        match_at_least_cost([[torch.zeros(1, 2)] * 2, [torch.zeros(1, 2), broken]])
