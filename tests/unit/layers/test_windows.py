"""Windows of a token grid."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from vit_adapter.layers import window_merge, window_partition

SIDE = st.integers(1, 9)


@settings(max_examples=50, deadline=None)
@given(height=SIDE, width=SIDE, window=SIDE, batch=st.integers(1, 3))
def test_merge_undoes_partition(height: int, width: int, window: int, batch: int) -> None:
    tokens = torch.randn(batch, height * width, 2)
    windows = window_partition(tokens, (height, width), window)
    assert windows.shape == (batch * -(-height // window) * -(-width // window), window**2, 2)
    assert torch.equal(window_merge(windows, (height, width), window), tokens)


def test_windows_by_hand() -> None:
    tokens = torch.arange(1.0, 13.0).view(2, 6, 1)  # two images of 2 x 3
    windows = window_partition(tokens, (2, 3), 2)[..., 0]
    expected = [[1, 2, 4, 5], [3, 0, 6, 0], [7, 8, 10, 11], [9, 0, 12, 0]]
    assert windows.tolist() == expected


@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_a_small_grid_becomes_one_padded_window(grid: tuple[int, int]) -> None:
    tokens = torch.ones(1, grid[0] * grid[1], 1)
    windows = window_partition(tokens, grid, 4)
    assert windows.shape == (1, 16, 1)
    assert windows.sum() == grid[0] * grid[1]
