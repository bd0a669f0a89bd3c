"""The training loop: its steps, what hooks see, and what it records."""

import logging
from collections.abc import Iterator

import pytest
import torch
from detectron2.engine import HookBase
from torch import Tensor, nn
from toy_trainer import Recorder, Toy, batches, make_trainer


def test_iterations_and_recorded_losses() -> None:
    trainer, recorder = make_trainer([1.0, 2.0, 3.0]), Recorder()
    trainer.register_hooks([recorder])
    before = trainer.model.linear.weight.item()
    trainer.train(5, 8)
    assert recorder.calls == [
        "before_train",
        "step 5",
        "step 6",
        "step 7",
        "after_train failed=False",
    ]
    assert trainer.iter == 8
    assert trainer.model.linear.weight.item() != before
    losses = {name: value for name, (value, _) in recorder.latest.items() if "loss" in name}
    assert losses["total_loss"] == pytest.approx(losses["loss_a"] + losses["loss_b"])
    assert "data_time" in recorder.latest


def test_losses_of_any_scalar_shape_and_dtype_are_recorded(device: torch.device) -> None:
    class Losses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(2.0, device=device))

        def forward(self, batch: list[dict]) -> dict[str, Tensor]:
            one = self.weight * self.weight.new_ones(1)  # (1,)
            return {"row": one, "narrow": self.weight.bfloat16(), "constant": torch.tensor(0.5)}

    trainer, recorder = make_trainer([1.0]), Recorder()
    trainer.model = Losses()
    trainer.register_hooks([recorder])
    trainer.train(0, 1)
    recorded = {name: value for name, (value, _) in recorder.latest.items()}
    assert (recorded["row"], recorded["narrow"], recorded["constant"]) == (2.0, 2.0, 0.5)
    assert recorded["total_loss"] == 4.5


def test_step_is_plain_gradient_descent() -> None:
    trainer = make_trainer([2.0])
    reference = Toy()
    reference.load_state_dict(trainer.model.state_dict())
    trainer.train(0, 1)
    sum(reference([{"value": 2.0}]).values()).backward()
    expected = reference.linear.weight - 0.125 * reference.linear.weight.grad
    torch.testing.assert_close(trainer.model.linear.weight, expected)


def test_hooks_may_change_gradients_before_the_step() -> None:
    class Clip(HookBase):
        def after_backward(self) -> None:
            nn.utils.clip_grad_value_(self.trainer.model.parameters(), 0.5)

    trainer = make_trainer([2.0])
    before = trainer.model.linear.weight.item()
    trainer.register_hooks([Recorder(), Clip()])  # not every hook has the method
    trainer.train(0, 1)
    assert abs(trainer.model.linear.weight.item() - before) == 0.125 * 0.5


def test_hooks_see_gradients_without_the_loss_scale() -> None:
    seen = []

    class Look(HookBase):
        def after_backward(self) -> None:
            seen.append(self.trainer.model.linear.weight.grad.item())

    plain, scaled = make_trainer([2.0]), make_trainer([2.0])
    scaled.model.load_state_dict(plain.model.state_dict())
    scaled.precision.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for trainer in (plain, scaled):
        trainer.register_hooks([Look()])
        trainer.train(0, 1)
    assert seen[0] == seen[1] != 0
    assert plain.model.linear.weight.equal(scaled.model.linear.weight)


def test_data_workers_end_before_the_last_evaluation() -> None:
    events = []

    class Loader:
        def __iter__(self) -> Iterator[list[dict]]:
            try:
                yield from batches([1.0] * 9)
            finally:
                events.append("workers ended")

    class Evaluation(HookBase):
        def after_train(self) -> None:
            events.append("evaluation")

    trainer = make_trainer([])
    trainer.data_loader = Loader()
    trainer.register_hooks([Evaluation()])
    trainer.train(0, 2)
    assert events == ["workers ended", "evaluation"]


def test_finished_run_reads_no_data(caplog: pytest.LogCaptureFixture) -> None:
    trainer, recorder = make_trainer([]), Recorder()
    trainer.register_hooks([recorder])
    with caplog.at_level(logging.INFO):
        trainer.train(3, 3)
    assert recorder.calls == ["before_train", "after_train failed=False"]
    assert "already at iteration 3 of 3, so it is only evaluated" in caplog.text


def test_every_iteration_is_recorded_when_it_is_time_to_log() -> None:
    values = [1.0, 2.0, 0.5, 4.0, 3.0]
    known: list[int] = []

    class Look(HookBase):
        def after_step(self) -> None:
            histories = self.trainer.storage.histories()
            losses = histories["total_loss"].values() if "total_loss" in histories else []
            known.append(len(losses))
            assert self.trainer.storage.iter == self.trainer.iter

    trainer, often = make_trainer(values), make_trainer(values)
    trainer.log_period, often.log_period = 2, 1
    trainer.register_hooks([Look()])
    trainer.train(0, 5)
    often.train(0, 5)
    assert known == [0, 2, 2, 4, 5]
    for name in ("loss_a", "loss_b", "total_loss"):
        history = trainer.storage.history(name).values()
        assert history == often.storage.history(name).values()
        assert [step for _, step in history] == [0, 1, 2, 3, 4]


def test_bfloat16_on_the_cpu() -> None:
    trainer = make_trainer([1.0], enabled=True, dtype="bfloat16")
    trainer.train(0, 1)
    assert trainer.model.dtypes == [torch.bfloat16]
    assert trainer.model.linear.weight.dtype == torch.float32
    assert not trainer.precision.scaler.is_enabled()
