"""Pooling in mixed precision."""

import pytest
import torch
from detectron2.structures import Boxes

from vit_adapter.detection import FullPrecisionPooler


@pytest.mark.parametrize("scales", [[1 / 8], [1 / 4, 1 / 8]])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_boxes_are_not_rounded(scales: list[float], dtype: torch.dtype) -> None:
    pooler = FullPrecisionPooler(2, scales=scales, sampling_ratio=2, pooler_type="ROIAlignV2")
    maps = [torch.randn(1, 3, int(64 * s), int(1400 * s)).to(dtype) for s in scales]
    boxes = [Boxes(torch.tensor([[1299.0, 3.0, 1313.0, 15.0], [2.0, 1.0, 640.0, 63.0]]))]
    wide = torch.promote_types(dtype, torch.float32)
    expected = pooler([level.to(wide) for level in maps], boxes).to(dtype)
    for autocast in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype != torch.float64):
            pooled = pooler(maps, boxes)
        assert pooled.dtype == dtype
        torch.testing.assert_close(pooled, expected, rtol=0, atol=0)
