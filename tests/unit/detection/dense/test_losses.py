"""What the golden cases do not show of the losses."""

import pytest
import torch

from vit_adapter.detection.dense.losses import quality_focal_loss


def test_quality_focal_loss_vanishes_at_its_target() -> None:
    logits = torch.tensor([[-20.0, 0.0, -20.0]])
    loss = quality_focal_loss(logits, torch.tensor([1]), torch.tensor([0.5]))
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert quality_focal_loss(logits, torch.tensor([3]), torch.tensor([0.5])).item() > 0.1
