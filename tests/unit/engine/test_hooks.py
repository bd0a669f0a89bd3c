"""When the hooks act, and what they do."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.engine import TrainerBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage
from fvcore.common.param_scheduler import LinearParamScheduler
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.engine.clipping import GradientClipping
from vit_adapter.engine.freezing import FrozenNorms
from vit_adapter.engine.hooks import (
    EvaluationHook,
    PeriodicCheckpointer,
    output_hooks,
    training_hooks,
)
from vit_adapter.engine.interruption import StopOnSignal
from vit_adapter.engine.metric_writer import PeriodicWriter
from vit_adapter.engine.progress import ProgressBar
from vit_adapter.engine.replay import ReplayWriter


class Loop(TrainerBase):
    """Iterations that do nothing, or fail."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.fail_at = fail_at
        self.failed = False
        self.start_iter = 0

    def run_step(self) -> None:
        if self.iter == self.fail_at:
            self.failed = True
            raise FloatingPointError("on purpose")


@pytest.mark.parametrize(
    ("period", "expected"), [(0, [6]), (2, [2, 4, 6]), (4, [4, 6]), (6, [6]), (100, [6])]
)
def test_evaluation_runs_once_after_the_last_iteration(period: int, expected: list[int]) -> None:
    loop, done = Loop(), []

    def evaluate() -> dict[str, dict[str, float]]:
        done.append(min(loop.iter + 1, 6))
        return {"bbox": {"AP": float(len(done))}}

    loop.register_hooks([EvaluationHook(period, evaluate, Checkpointer(nn.Linear(1, 1)))])
    with EventStorage() as storage:
        loop.train(0, 6)
        assert done == expected
        del storage
    assert loop.storage.latest()["bbox/AP"][0] == len(expected)


@pytest.mark.parametrize("fail_at", [0, 3, 5])
def test_no_evaluation_after_a_failure(fail_at: int) -> None:
    loop, done = Loop(fail_at), []
    checkpointer = Checkpointer(nn.Linear(1, 1))
    loop.register_hooks([EvaluationHook(0, lambda: done.append(1) or {}, checkpointer)])
    with pytest.raises(FloatingPointError):
        loop.train(0, 6)
    assert done == []


@pytest.mark.parametrize("main_process", [True, False])
@pytest.mark.parametrize("error", [ValueError("broken image"), KeyboardInterrupt()])
def test_failed_evaluation_leaves_a_checkpoint(
    main_process: bool,
    error: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Even if the main process is stopped before it notices the failure in another one."""
    monkeypatch.setattr(comm, "is_main_process", lambda: main_process)
    model = nn.Linear(1, 1)
    loop = Loop()
    checkpointer = Checkpointer(model, str(tmp_path), trainer=loop)
    (tmp_path / "model_0000002.pth").write_text("what another start has left")

    def evaluate() -> dict:
        model.weight.data.fill_(float(loop.iter))
        raise error

    loop.register_hooks([EvaluationHook(3, evaluate, checkpointer)])
    with pytest.raises(type(error)):
        loop.train(0, 6)
    assert names(tmp_path) == ["model_0000002.pth"]
    assert "model_0000002.pth" in caplog.text
    assert ("model_0000002.pth" in capsys.readouterr().err) != main_process
    monkeypatch.undo()
    resumed = Loop()
    model = nn.Linear(1, 1)
    resumed.load_state_dict(Checkpointer(model, str(tmp_path)).resume_or_load("")["trainer"])
    assert (resumed.iter, model.weight.item()) == (2, 2.0)


@pytest.mark.parametrize("broken", [{"bbox": {"AP": "high"}}, None])
def test_failure_after_the_evaluation_leaves_a_checkpoint_too(
    broken: object, tmp_path: Path
) -> None:
    loop = Loop()
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    loop.register_hooks([EvaluationHook(3, lambda: broken, checkpointer)])
    with EventStorage(), pytest.raises((TypeError, ValueError, AttributeError)):
        loop.train(0, 6)
    assert names(tmp_path) == ["model_0000002.pth"]


def test_one_process_does_not_save_a_divided_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other processes may wait elsewhere, so saving would never end."""
    monkeypatch.setattr("vit_adapter.engine.hooks.is_sharded", lambda model: True)
    loop = Loop()
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    saving = PeriodicCheckpointer(checkpointer, period=2)

    def evaluate() -> dict[str, dict[str, float]]:
        raise ValueError("broken image")

    loop.register_hooks([saving, EvaluationHook(3, evaluate, checkpointer)])
    with EventStorage(), pytest.raises(ValueError, match="broken image"):
        loop.train(0, 6)
    assert names(tmp_path) == ["model_0000001.pth"]
    assert f"so the last checkpoint counts: {tmp_path / 'model_0000001.pth'}" in caplog.text


def test_failed_evaluation_after_the_last_iteration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def evaluate() -> dict:
        raise ValueError("broken image")

    loop = Loop()
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    loop.register_hooks(
        [PeriodicCheckpointer(checkpointer, period=0), EvaluationHook(0, evaluate, checkpointer)]
    )
    with pytest.raises(ValueError, match="broken image"):
        loop.train(0, 6)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert names(tmp_path) == ["model_final.pth"]
    assert "--eval-only --resume" in caplog.text


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.pth"))


def test_folders_are_removed_too(tmp_path: Path) -> None:
    (tmp_path / "model_0000000.sharded").mkdir()
    loop = Loop()
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path), sharded=True)
    loop.register_hooks([PeriodicCheckpointer(checkpointer, period=2, max_to_keep=2)])
    loop.train(1, 9)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0000005.sharded",
        "model_0000007.sharded",
        "model_final.sharded",
    ]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.sharded"


def test_checkpoints_of_an_interrupted_run_count(tmp_path: Path) -> None:
    def train(start: int, stop: int, fail_at: int | None = None) -> None:
        loop = Loop(fail_at)
        checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
        loop.register_hooks([PeriodicCheckpointer(checkpointer, period=2, max_to_keep=2)])
        loop.train(start, stop)

    torch.save({}, tmp_path / "model_best.pth")
    with pytest.raises(FloatingPointError):
        train(0, 20, fail_at=9)
    assert names(tmp_path) == ["model_0000005.pth", "model_0000007.pth", "model_best.pth"]
    torch.save({}, tmp_path / "model_0000009.pth")  # last_checkpoint was not written any more
    train(8, 10)
    assert names(tmp_path) == [
        "model_0000007.pth",
        "model_0000009.pth",
        "model_best.pth",
        "model_final.pth",
    ]


def test_other_processes_remove_no_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 3):
        (tmp_path / f"model_000000{number}.pth").touch()
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    loop = Loop()
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    loop.register_hooks([PeriodicCheckpointer(checkpointer, period=2, max_to_keep=1)])
    loop.train(4, 6)
    assert names(tmp_path) == ["model_0000001.pth", "model_0000003.pth"]


def make_config(**train: object) -> DictConfig:
    schedule = L(LinearParamScheduler)(start_value=1.0, end_value=1.0)
    return OmegaConf.create(
        {
            "lr_multiplier": schedule,
            "train": {
                "checkpointer": {"period": 0, "max_to_keep": 3},
                "eval_period": 0,
                "log_period": 1,
                "max_iter": 1,
                **train,
            },
        },
        flags={"allow_objects": True},
    )


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, []),
        ({"freeze": [], "clip_grad": {"enabled": False, "params": {"max_norm": 1.0}}}, []),
        ({"freeze": ["a"]}, [FrozenNorms]),
        ({"clip_grad": {"enabled": True, "params": {"max_norm": 1.0}}}, [GradientClipping]),
    ],
)
def test_hooks_that_the_config_asks_for(options: dict, more: list[type]) -> None:
    kinds = [type(hook) for hook in training_hooks(make_config(**options), nn.Linear(1, 1))]
    assert kinds == [hooks.IterationTimer, hooks.LRScheduler, *more]


@pytest.mark.parametrize("main_process", [True, False])
def test_writers_come_last_and_in_the_main_process(
    main_process: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comm, "is_main_process", lambda: main_process)
    trainer = Loop()
    trainer.model = nn.Linear(1, 1)
    kinds = [type(hook) for hook in output_hooks(make_config(), trainer, str(tmp_path))]
    everywhere = [ReplayWriter, PeriodicCheckpointer, StopOnSignal, EvaluationHook]
    assert kinds == ([ProgressBar, *everywhere, PeriodicWriter] if main_process else everywhere)
    assert (tmp_path / "metrics.json").exists() is main_process


def test_trackers_come_before_the_writer_that_removes_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(EventWriter):
        images: list[str] = []

        def write(self) -> None:
            self.images += [name for name, *_ in get_event_storage()._vis_data]

    asked = []

    def build(cfg: DictConfig, folder: str, *, resumed: bool, failed: Callable[[], bool]) -> list:
        asked.append((folder, resumed, failed))
        return [Seen()]

    monkeypatch.setattr("vit_adapter.engine.hooks.build_trackers", build)
    trainer = Loop()
    trainer.model, trainer.start_iter = nn.Linear(1, 1), 3
    writer = output_hooks(make_config(), trainer, str(tmp_path))[-1]
    with EventStorage(3) as storage:
        storage.put_image("shown", torch.zeros(3, 2, 2))
        writer.after_train()
        assert storage._vis_data == []
    assert Seen.images == ["shown"]
    ((folder, resumed, failed),) = asked
    assert (folder, resumed, failed()) == (str(tmp_path), True, False)
    trainer.failed = True
    assert failed()
