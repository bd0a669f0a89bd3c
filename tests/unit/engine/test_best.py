"""The best checkpoint by a metric, and when a run stops early."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.config.errors import UsageError
from vit_adapter.engine import best as best_module
from vit_adapter.engine.best import BestCheckpoint, build_best, check_best
from vit_adapter.engine.hooks import EvaluationHook, PeriodicCheckpointer
from vit_adapter.engine.precision import Precision
from vit_adapter.engine.trainer import Trainer

METRIC = "bbox/AP"
NAN = math.nan


class Counter(nn.Module):
    """Its weight is the number of steps taken."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, batch: object) -> dict[str, torch.Tensor]:
        return {"loss": -self.weight}


class Run:
    """A training in a folder, evaluated after every second iteration.

    Args:
        values: the metric after 2, 4, ... steps.
    """

    def __init__(
        self, folder: Path, values: Sequence[float], *, period: int = 2, **options: object
    ) -> None:
        self.values, self.evaluated = values, []
        self.model = Counter()
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        precision = Precision(enabled=False, dtype="float16", device_type="cpu")
        self.trainer = Trainer(model=self.model, optimizer=optimizer, precision=precision)
        self.trainer.data_loader = iter([{}] for _ in range(100))
        rest = Checkpointer(self.model, str(folder)).resume_or_load("")
        if rest:
            self.trainer.load_state_dict(rest["trainer"])
        checkpointer = Checkpointer(self.model, str(folder), trainer=self.trainer)
        self.best = BestCheckpoint(checkpointer, metric=METRIC, **options)
        if rest:
            self.best.restore(self.trainer.start_iter)
        periodic = PeriodicCheckpointer(checkpointer, period=period, max_to_keep=1)
        self.trainer.register_hooks(
            [periodic, EvaluationHook(2, self.evaluate, checkpointer, self.best)]
        )

    def evaluate(self) -> dict[str, dict[str, float]]:
        steps = int(self.model.weight)
        self.evaluated.append(steps)
        return {"bbox": {"AP": self.values[steps // 2 - 1], "AP50": 0.0}}

    def train(self, max_iter: int) -> "Run":
        self.trainer.train(self.trainer.start_iter, max_iter)
        return self


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.pth"))


def best_steps(folder: Path) -> float:
    return load_checkpoint_file(folder / "model_best.pth")["model"]["weight"].item()


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("max", [1.0, 3.0, 2.0, 3.0], 4),
        ("min", [3.0, 1.0, 2.0, 1.0], 4),
        ("max", [1.0, 2.0, 3.0, 4.0], 8),  # after the last iteration
        ("max", [NAN, 1.0, NAN, 0.5], 4),
        ("max", [1.0, math.inf, 0.5, 0.5], 2),
    ],
)
def test_the_best_checkpoint_is_kept(
    mode: str, values: list[float], expected: int, tmp_path: Path
) -> None:
    run = Run(tmp_path, values, mode=mode).train(8)
    assert run.evaluated == [2, 4, 6, 8]
    assert best_steps(tmp_path) == expected
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert names(tmp_path) == ["model_0000007.pth", "model_best.pth", "model_final.pth"]
    stored = load_checkpoint_file(tmp_path / "model_best.pth")
    assert stored["iteration"] == stored["trainer"]["iteration"] == expected - 1
    assert stored["best"] == {"metric": METRIC, "mode": mode, "value": run.best.value}
    assert (run.best.value, run.best.iteration) == (values[expected // 2 - 1], expected - 1)


def test_nothing_is_the_best_without_a_finite_value(tmp_path: Path) -> None:
    run = Run(tmp_path, [NAN, NAN, NAN, 1.0], patience=3).train(8)
    assert run.evaluated == [2, 4, 6]
    assert not (tmp_path / "model_best.pth").exists()


def test_the_run_stops_early(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = [1.0, 2.0, 2.0, 0.5, 9.0, 0.0, 0.0, 0.0]
    with caplog.at_level(logging.INFO):
        run = Run(tmp_path, values, patience=2).train(16)
    assert run.evaluated == [2, 4, 6, 8]  # the last one only once
    assert run.trainer.storage.latest()["total_loss"][1] == 7
    assert "after iteration 7: bbox/AP has not improved in the last 2 evaluations" in caplog.text
    assert "The best, 2.0000, is from iteration 3" in caplog.text
    assert names(tmp_path) == ["model_0000007.pth", "model_best.pth", "model_final.pth"]
    final = load_checkpoint_file(tmp_path / "model_final.pth")
    assert (final["iteration"], final["model"]["weight"].item()) == (7, 8.0)

    # Resumed without a change it says so again, and changes nothing.
    written = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run = Run(tmp_path, values, patience=2).train(16)
    assert run.evaluated == [] and run.model.weight.item() == 8
    assert "The run stops early, after iteration 7" in caplog.text
    assert "use --resume with a larger train.best.patience" in caplog.text
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == written

    # With more patience it goes on, and finds a better one.
    run = Run(tmp_path, values, patience=3).train(16)
    assert run.evaluated == [10, 12, 14, 16]
    assert best_steps(tmp_path) == 10


class Killed(BaseException):
    """Stands in for a kill: nothing that follows may write."""


def stop_writing(*args: object, **kwargs: object) -> None:
    raise Killed


@pytest.mark.parametrize("period", [2, 3])
@pytest.mark.parametrize("moment", ["evaluation", "checkpoint", "list", "step"])
@pytest.mark.parametrize("steps", [4, 6, 10])
def test_a_killed_run_continues_like_the_unbroken_one(
    steps: int, moment: str, period: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is killed: in an evaluation, before or after the best checkpoint, in a step."""
    values = [1.0, 0.5, 3.0, 2.0, 3.5, 1.0, 0.0, 9.0]
    unbroken = Run(tmp_path / "a", values, period=period, patience=2)
    (tmp_path / "a").mkdir()
    unbroken.train(20)
    (tmp_path / "b").mkdir()
    run = Run(tmp_path / "b", values, period=period, patience=2)
    kill_at(run, steps, moment, monkeypatch)
    with pytest.raises(Killed):
        run.train(20)
    monkeypatch.undo()
    resumed = Run(tmp_path / "b", values, period=period, patience=2).train(20)
    assert resumed.model.weight == unbroken.model.weight == 14
    assert best_steps(tmp_path / "b") == best_steps(tmp_path / "a") == 10
    lists = [(tmp_path / name / "evaluations.json").read_text() for name in "ab"]
    assert lists[0] == lists[1]


def kill_at(run: Run, steps: int, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill a run during or after the evaluation that follows this number of steps."""
    evaluate, save, write = run.evaluate, Checkpointer.save, best_module.atomic_open

    def kill(reached: bool) -> None:
        if reached and int(run.model.weight) >= steps:
            monkeypatch.setattr(Checkpointer, "save", stop_writing)
            raise Killed

    def evaluate_or_die() -> dict[str, dict[str, float]]:
        kill(moment == "evaluation")
        return evaluate()

    def save_or_die(self: Checkpointer, name: str, **options: object) -> None:
        kill(moment == "checkpoint" and name == "model_best")
        save(self, name, **options)

    def write_or_die(*arguments: object) -> object:
        kill(moment == "list")
        return write(*arguments)

    class Step(HookBase):
        def before_step(self) -> None:
            kill(moment == "step")

    hook = run.trainer._hooks[-1]
    hook._evaluate = evaluate_or_die
    monkeypatch.setattr(Checkpointer, "save", save_or_die)
    monkeypatch.setattr(best_module, "atomic_open", write_or_die)
    run.trainer.register_hooks([Step()])


def test_the_best_of_iterations_that_are_computed_again_is_kept(tmp_path: Path) -> None:
    """Its checkpoint exists, so it would be wrong to replace it with a worse one."""
    best = Run(tmp_path, [1.0, 3.0]).train(4).best
    best.restore(2)
    assert (best.value, best.iteration) == (3.0, 3)
    assert best.has_evaluated(1) and not best.has_evaluated(3)


def test_another_metric_starts_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Run(tmp_path, [1.0, 3.0]).train(4)
    run = Run(tmp_path, [0.0, 2.0, 1.0, 0.5], mode="min").train(8)
    assert "is for another train.best: metric=bbox/AP, mode=max." in caplog.text
    assert run.evaluated == [4, 6, 8]  # what it starts from, for the new metric
    assert best_steps(tmp_path) == 8


def test_unknown_metric(tmp_path: Path) -> None:
    """Every process raises it; the checkpoint of the iteration stays."""
    run = Run(tmp_path, [1.0, 1.0], period=100)
    run.best._metric = "bbox/ap"
    with pytest.raises(UsageError, match=r"'bbox/ap' is not among .*: bbox/AP, bbox/AP50\. Give"):
        run.train(4)
    assert names(tmp_path) == ["model_0000001.pth"]
    with pytest.raises(UsageError, match="there are none"):
        run.best.update({}, 1)


def test_the_main_process_decides_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others have no results, but take part in saving, and stop in the same iteration."""
    others = [{METRIC: 1.0}, {METRIC: 0.5}]
    monkeypatch.setattr(best_module.comm, "all_gather", lambda own: [others.pop(0), own])
    monkeypatch.setattr(best_module.comm, "is_main_process", lambda: False)
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    saved = []
    checkpointer.save = lambda name, **options: saved.append(name)
    best = BestCheckpoint(checkpointer, metric=METRIC, patience=1)
    best.update({}, 1)
    assert saved == ["model_best"] and not best.should_stop
    best.update({}, 3)
    assert saved == ["model_best"] and best.should_stop
    assert not list(tmp_path.iterdir())


def make_config(evaluator: object = "some", eval_period: int = 1, **options: object) -> DictConfig:
    train = {"eval_period": eval_period, "best": options}
    return OmegaConf.create({"dataloader": {"evaluator": evaluator}, "train": train})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": METRIC, "mode": "up"}, "train.best.mode='up', expected max or min"),
        ({"metric": "", "patience": 2}, "train.best.patience=2 needs the metric"),
        ({"metric": METRIC, "evaluator": None}, "the config has no evaluator"),
        ({"metric": METRIC, "patience": 2, "eval_period": 0}, "needs evaluations during training"),
    ],
)
def test_options_that_cannot_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_best(make_config(**options))


def test_the_config_decides(tmp_path: Path) -> None:
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    for cfg in (OmegaConf.create({"train": {}}), make_config(metric="", mode="max", patience=None)):
        check_best(cfg)
        assert build_best(cfg, checkpointer, 0) is None
    cfg = make_config(metric=METRIC, mode="min", patience=1)
    check_best(cfg)
    best = build_best(cfg, checkpointer, 0)
    for iteration, value in enumerate([2.0, 1.0, 3.0]):
        best.update({"bbox": {"AP": value}}, iteration)
    assert (best.value, best.iteration, best.should_stop) == (1.0, 1, True)
    assert json.loads((tmp_path / "evaluations.json").read_text())["evaluations"][1] == [1, 1.0]
    resumed = build_best(cfg, checkpointer, 2)
    assert (resumed.value, resumed.iteration, resumed.should_stop) == (1.0, 1, False)
