"""Relative position biases: the bias of each pair, resizing by splines, and the cache."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.interpolate import RectBivariateSpline
from torch import Tensor, nn

from vit_adapter.layers.relative_position import (
    BiasCache,
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


class _Counted:
    """A table, a cache, and how often the bias was computed."""

    def __init__(self, rows: int = 4) -> None:
        self.table = nn.Parameter(torch.zeros(rows))
        self.cache = BiasCache()
        self.computed = 0

    def get(self, key: str = "a") -> Tensor:
        return self.cache.get(self.table, key, self._make)

    def _make(self) -> Tensor:
        self.computed += 1
        return self.table * 1


@torch.no_grad()
def test_a_bias_is_computed_once_for_each_key() -> None:
    counted = _Counted()
    assert counted.get() is counted.get()
    counted.get("b")
    assert counted.get() is counted.get()
    assert counted.computed == 2


def _step(counted: _Counted) -> None:
    counted.table.grad = torch.ones_like(counted.table)
    torch.optim.SGD([counted.table], lr=1.0).step()


def _replace(counted: _Counted) -> None:
    counted.table = nn.Parameter(torch.ones(4))


def _replace_data(counted: _Counted) -> None:
    counted.table.data = torch.ones(4)


def _load(counted: _Counted) -> None:
    module = nn.Module()
    module.table = counted.table
    module.load_state_dict({"table": torch.full((4,), 3.0)})


@pytest.mark.parametrize("change", [_step, _replace, _replace_data, _load])
@torch.no_grad()
def test_no_bias_outlives_its_table(change: object) -> None:
    counted = _Counted()
    counted.get()
    change(counted)
    assert torch.equal(counted.get(), counted.table)
    assert counted.get().abs().sum() > 0


def test_nothing_is_kept_while_gradients_are_computed() -> None:
    counted = _Counted()
    with torch.no_grad():
        kept = counted.get()
    assert counted.get().requires_grad
    with torch.no_grad():
        assert counted.get() is not kept  # the step in between cleared the cache


@torch.inference_mode()
def test_tables_made_in_inference_mode_are_not_cached() -> None:
    counted = _Counted()
    counted.get()
    counted.table.add_(1)
    assert torch.equal(counted.get(), torch.ones(4))


@torch.no_grad()
def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_adapter.layers.relative_position._MAX_CACHED_BYTES", 40)
    counted = _Counted()  # 16 bytes each: two fit
    kept = [counted.get(key) for key in "abc"]
    assert counted.get("c") is kept[2] and counted.get("b") is kept[1]
    assert counted.get("a") is not kept[0]
    large = _Counted(rows=11)
    assert large.get() is not large.get()


@torch.no_grad()
def test_a_cuda_graph_computes_its_own_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = _Counted()
    kept = counted.get()
    monkeypatch.setattr("vit_adapter.layers.relative_position.is_captured", lambda tensor: True)
    assert counted.get() is not kept


@torch.no_grad()
def test_copies_start_empty() -> None:
    counted = _Counted()
    counted.get()
    for copied in (copy.deepcopy(counted), pickle.loads(pickle.dumps(counted))):
        assert torch.equal(copied.get(), counted.get())
        assert copied.computed == 2
