"""A training step reads nothing from the device, except when it is time to log.

On the meta device tensors have no numbers, so whatever reads one fails. On CUDA, PyTorch itself
reports what waits.
"""

from collections.abc import Iterator

import pytest
import torch
from detectron2.engine import hooks
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import Tensor, nn

from vit_adapter.engine.clipping import GradientClipping
from vit_adapter.engine.finite import FiniteCheck
from vit_adapter.engine.precision import Precision
from vit_adapter.engine.trainer import Trainer

READS = "meta tensors|Meta tensors|no data"


class Model(nn.Module):
    """Two losses, one of them a constant on the CPU, as some models have."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, device=device)

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        output = self.linear(torch.ones(len(batch), 4, device=self.linear.weight.device))
        constant = torch.tensor(0.5)
        return {"loss_a": output.square().mean(), "loss_b": output.abs().mean(), "zero": constant}


class Unread(FiniteCheck):
    """Counts the checks, whose answers the meta device does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def start(self, numbers: Tensor) -> None:
        assert numbers.device.type == "meta"
        self.calls.append("start")

    def passed(self) -> bool:
        self.calls.append("passed")
        return True


def make_trainer(device: torch.device, *, log_period: int) -> Trainer:
    model = Model(device)
    trainer = Trainer(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.1, foreach=True),
        precision=Precision(enabled=True, dtype="bfloat16", device_type="cpu"),
        accumulate=2,
        log_period=log_period,
    )
    trainer.precision.device_type = "cuda" if device.type == "cuda" else "cpu"
    trainer.data_loader = [[{}, {}]] * 8
    schedule = hooks.LRScheduler(scheduler=LinearParamScheduler(1.0, 0.5))
    trainer.register_hooks([hooks.IterationTimer(), schedule, GradientClipping(1.0)])
    return trainer


def test_only_a_step_that_logs_reads_numbers() -> None:
    trainer = make_trainer(torch.device("meta"), log_period=4)
    trainer._finite = Unread()
    with pytest.raises((NotImplementedError, RuntimeError), match=READS):
        trainer.train(0, 8)
    assert trainer.iter == 3  # the fourth step
    assert trainer._finite.calls == ["start", "passed"] * 4


def test_a_read_would_be_found() -> None:
    trainer = make_trainer(torch.device("meta"), log_period=4)
    with pytest.raises((NotImplementedError, RuntimeError), match=READS):
        trainer.train(0, 8)  # the check reads its answer, on any device but CUDA
    assert trainer.iter == 0


@pytest.fixture
def errors_for_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
def test_no_step_waits_on_cuda(errors_for_waits: None) -> None:
    trainer = make_trainer(torch.device("cuda"), log_period=100)
    with pytest.raises(RuntimeError, match="synchronizing"):
        trainer.train(0, 8)
    assert trainer.iter == 7  # the last step, which logs
