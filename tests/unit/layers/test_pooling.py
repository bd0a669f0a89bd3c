"""Pooling to a grid."""

import pytest
import torch

from vit_adapter.layers import PoolToGrid
from vit_adapter.ops.exporting import exporting


@pytest.mark.parametrize("side", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(6, 12), (7, 5), (2, 3)])
def test_exported_form_equals_pytorch(side: int, size: tuple[int, int]) -> None:
    features = torch.randn(2, 3, *size, dtype=torch.float64)
    pool = PoolToGrid(side)
    expected = torch.nn.functional.adaptive_avg_pool2d(features, side)
    assert torch.equal(pool(features), expected)
    with exporting():
        torch.testing.assert_close(pool(features), expected)
