"""What the golden cases do not show of the losses."""

import pytest
import torch
from torch import Tensor

from vit_adapter.detection.dense.losses import mean_over_processes, quality_focal_loss


def test_divisors_are_means_over_the_processes_and_at_least_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = torch.tensor([7.0, 0.2], requires_grad=True)
    assert mean_over_processes(values).tolist() == [7.0, 1.0]

    def add_other_process(tensor: Tensor) -> None:
        tensor += torch.tensor([2.0, 5.8])

    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", add_other_process)
    means = mean_over_processes(values)
    assert means.tolist() == pytest.approx([4.5, 3.0])
    assert not means.requires_grad
    assert values.tolist() == pytest.approx([7.0, 0.2])


def test_quality_focal_loss_vanishes_at_its_target() -> None:
    logits = torch.tensor([[-20.0, 0.0, -20.0]])
    loss = quality_focal_loss(logits, torch.tensor([1]), torch.tensor([0.5]))
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert quality_focal_loss(logits, torch.tensor([3]), torch.tensor([0.5])).item() > 0.1
