"""Position embeddings at resolutions other than the trained one."""

import pytest
import torch
import torch.nn.functional as F

from vit_adapter.layers import resize_position_embedding


def test_the_same_grid_changes_nothing() -> None:
    embedding = torch.randn(1, 16, 3)
    assert resize_position_embedding(embedding, (4, 4), (4, 4)) is embedding


def test_another_grid_is_bicubic_without_antialias() -> None:
    embedding = torch.randn(1, 16, 3, dtype=torch.float64)
    grid = embedding.transpose(1, 2).reshape(1, 3, 4, 4)
    expected = F.interpolate(grid, size=(2, 7), mode="bicubic", align_corners=False)
    actual = resize_position_embedding(embedding, (4, 4), (2, 7))
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, expected.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    embedding = torch.randn(1, 16, 3).to(dtype)
    expected = resize_position_embedding(embedding.float(), (4, 4), (6, 9)).to(dtype)
    assert torch.equal(resize_position_embedding(embedding, (4, 4), (6, 9)), expected)
