"""Scores of proposals."""

import pytest
import torch

from vit_adapter.export.detectors.proposals import positive_scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_scores_have_the_order_of_the_logits(dtype: torch.dtype) -> None:
    logits = torch.tensor([-6e4, -120, -110, -11, -1, -0.01, 0, 0.01, 1, 11, 85, 90, 6e4])
    scores = positive_scores(logits.to(dtype))
    assert scores.isfinite().all() and scores[0] > 0
    assert (scores.diff() > 0).all()
