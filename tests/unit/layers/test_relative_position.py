"""Relative position biases: the bias of each pair, and resizing by splines."""

import numpy as np
import pytest
import torch
from scipy.interpolate import RectBivariateSpline
from torch import Tensor

from vit_adapter.layers.relative_position import (
    geometric_ratio,
    num_offsets,
    relative_position_bias,
    resize_offsets,
)


def slow_bias(table: Tensor, grid: tuple[int, int], class_token: bool) -> Tensor:
    """Pair by pair, written from the definition."""
    height, width = grid
    places = [(y, x) for y in range(height) for x in range(width)]
    places = [None, *places] if class_token else places
    bias = torch.zeros(table.shape[1], len(places), len(places), dtype=table.dtype)
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            if query is None or key is None:
                row = {(True, False): -3, (False, True): -2, (True, True): -1}[
                    (query is None, key is None)
                ]
            else:
                dy, dx = query[0] - key[0], query[1] - key[1]
                row = (dy + height - 1) * (2 * width - 1) + dx + width - 1
            bias[:, i, j] = table[row]
    return bias


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (3, 2), (4, 6)])
def test_bias_of_every_pair(grid: tuple[int, int], class_token: bool) -> None:
    table = torch.randn(num_offsets(grid) + 3 * class_token, 2, dtype=torch.float64)
    bias = relative_position_bias(table, grid, class_token=class_token)
    assert torch.equal(bias, slow_bias(table, grid, class_token))
    assert bias.stride(-1) == 1 and bias.stride(-2) % 8 == 0  # as attention on GPUs needs it


@pytest.mark.parametrize("class_token", [False, True])
def test_gradients_of_the_table(class_token: bool) -> None:
    grid = (2, 3)
    shape = num_offsets(grid) + 3 * class_token, 2
    table = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 6 + class_token, 6 + class_token, dtype=torch.float64)
    fast, slow = (
        torch.autograd.grad((function * weights).sum(), table)[0]
        for function in (
            relative_position_bias(table, grid, class_token=class_token),
            slow_bias(table, grid, class_token),
        )
    )
    torch.testing.assert_close(fast, slow)
    assert torch.autograd.gradcheck(lambda t: resize_offsets(t, grid, (3, 5)), table)


@pytest.mark.parametrize(
    ("source", "target"), [((3, 5), (4, 9)), ((6, 4), (6, 7)), ((7, 7), (5, 3)), ((3, 3), (40, 3))]
)
def test_resizing_equals_scipys_bivariate_spline(
    source: tuple[int, int], target: tuple[int, int]
) -> None:
    """Each axis has its own sequence; an axis that keeps its size has none."""
    positions, wanted = [], []
    for n, t in zip(source, target, strict=True):
        ratio = 1.0 if n == t else geometric_ratio(n - 1, t - 1)
        steps = [sum(ratio**j for j in range(i + 1)) for i in range(n - 1)]
        positions.append(np.array([-s for s in reversed(steps)] + [0.0] + steps))
        wanted.append(np.arange(1 - t, t))
    table = torch.randn(num_offsets(source) + 3, 2, dtype=torch.float64)
    sides = [2 * n - 1 for n in source]
    expected = np.stack(
        [
            RectBivariateSpline(*positions, table[:-3, m].view(sides).numpy(), s=0)(*wanted)
            for m in range(2)
        ],
        -1,
    )
    resized = resize_offsets(table, source, target)
    torch.testing.assert_close(resized[:-3], torch.from_numpy(expected).flatten(0, 1))
    assert torch.equal(resized[-3:], table[-3:])


@pytest.mark.parametrize("source", [(1, 1), (2, 1), (2, 2)])
def test_tiny_grids_can_be_resized(source: tuple[int, int]) -> None:
    """With too few offsets for a cubic spline, constants still stay constant."""
    table = torch.full((num_offsets(source), 3), 0.25, dtype=torch.float64)
    resized = resize_offsets(table, source, (3, 4))
    torch.testing.assert_close(resized, torch.full((35, 3), 0.25, dtype=torch.float64))


def test_the_native_grid_is_untouched() -> None:
    table = torch.randn(num_offsets((3, 4)), 2)
    assert resize_offsets(table, (3, 4), (3, 4)) is table


def test_half_precision_is_computed_in_float32() -> None:
    table = torch.randn(num_offsets((4, 4)), 2).half()
    expected = resize_offsets(table.float(), (4, 4), (6, 6)).half()
    assert torch.equal(resize_offsets(table, (4, 4), (6, 6)), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resize_offsets(table, (4, 4), (6, 6)), expected)


def test_published_ratios() -> None:
    ratios = {30: 1.125056, 32: 1.134918, 40: 1.168504, 56: 1.218069}
    for grid, ratio in ratios.items():
        assert geometric_ratio(13, grid - 1) == pytest.approx(ratio, abs=1e-6)
