"""SIGTERM and SIGUSR1: where the training stops, what is written, and the exit status."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from detectron2.engine import TrainerBase
from torch import nn

from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.engine import interruption
from vit_adapter.engine.hooks import EvaluationHook, PeriodicCheckpointer
from vit_adapter.engine.interruption import SIGNALS, Interrupted, StopOnSignal

pytestmark = pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals")


class Loop(TrainerBase):
    """Counts; sends itself signals at some iterations."""

    def __init__(self, model: nn.Module, signals: dict[int, list[int]]) -> None:
        super().__init__()
        self.model, self.signals, self.failed = model, signals, False

    def run_step(self) -> None:
        for number in self.signals.get(self.iter, []):
            os.kill(os.getpid(), number)
        self.model.weight.data.fill_(float(self.iter))  # the step ends after the signal

    def train(self, start_iter: int, max_iter: int) -> None:
        try:
            super().train(start_iter, max_iter)
        finally:
            self.handlers_afterwards = [signal.getsignal(number) for number in SIGNALS]


def make_loop(folder: Path, signals: dict[int, list[int]], evaluate=None, period: int = 4) -> Loop:
    model = nn.Linear(1, 1)
    loop = Loop(model, signals)
    checkpointer = Checkpointer(model, str(folder), trainer=loop)
    stopping = StopOnSignal(checkpointer)
    loop.register_hooks(
        [
            PeriodicCheckpointer(checkpointer, period=period),
            stopping,
            EvaluationHook(3, lambda: evaluate(stopping) if evaluate else {}, checkpointer),
        ]
    )
    return loop


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)], ids=["TERM", "USR1"]
)
def test_the_step_ends_and_a_checkpoint_is_written(
    number: int, status: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    loop = make_loop(tmp_path, {4: [number]})
    with pytest.raises(Interrupted) as caught:
        loop.train(0, 9)
    assert caught.value.code == status
    assert loop.handlers_afterwards == before
    assert f"after iteration 4 with exit status {status}" in caplog.text
    model = nn.Linear(1, 1)
    rest = Checkpointer(model, str(tmp_path)).resume_or_load("")
    assert rest["trainer"]["iteration"] == rest["iteration"] == 4
    assert model.weight.item() == 4


@pytest.mark.parametrize(("iteration", "name"), [(3, "model_0000003"), (8, "model_final")])
def test_a_checkpoint_of_this_step_is_not_written_twice(
    iteration: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, save = [], Checkpointer.save

    def counted(self: Checkpointer, name: str, **extra: object) -> None:
        saved.append(name)
        save(self, name, **extra)

    monkeypatch.setattr(Checkpointer, "save", counted)
    with pytest.raises(Interrupted):
        make_loop(tmp_path, {iteration: [signal.SIGTERM]}).train(0, 9)
    assert saved[-1] == name
    assert len(saved) == (1 if iteration == 3 else 3)


def test_an_evaluation_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def evaluate(stopping: StopOnSignal) -> dict:
        stopping.stop_now()
        os.kill(os.getpid(), signal.SIGUSR1)
        stopping.stop_now()
        raise AssertionError("the evaluation went on")

    with pytest.raises(Interrupted) as caught:
        make_loop(tmp_path, {}, evaluate, period=100).train(0, 9)
    assert caught.value.code == 138
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    assert "A signal ends the run during the evaluation" in caplog.text
    assert "failed" not in caplog.text


@pytest.mark.parametrize(
    ("signals", "seconds", "ends"),
    [
        ([signal.SIGTERM, signal.SIGTERM], 1.0, False),  # passed on by a launcher
        ([signal.SIGTERM, signal.SIGTERM], 9.0, True),
        ([signal.SIGUSR1, signal.SIGUSR1], 9.0, False),
        (
            [signal.SIGUSR1, signal.SIGTERM],
            9.0,
            False,
        ),  # of a cluster, at the end of the job's time
    ],
)
def test_a_second_signal(
    signals: list[int], seconds: float, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    times = iter((100.0, 100.0 + seconds))
    monkeypatch.setattr(interruption.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(interruption.signal, "raise_signal", ended.append)
    stopping = StopOnSignal(Checkpointer(nn.Linear(1, 1)))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        for number in signals:
            stopping._receive(number, None)
        assert ended == [signal.SIGTERM] * ends
        assert (signal.getsignal(signal.SIGTERM) is signal.SIG_DFL) or not ends
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_other_threads_train_without_handlers(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, {})
    with ThreadPoolExecutor(1) as pool:
        pool.submit(loop.train, 0, 3).result()
    assert torch.equal(loop.model.weight.data, torch.full((1, 1), 2.0))
