"""When the hooks act."""

from pathlib import Path

import pytest
import torch
from detectron2.engine import TrainerBase
from detectron2.utils.events import EventStorage
from torch import nn

from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.engine.hooks import EvaluationHook, PeriodicCheckpointer


class Loop(TrainerBase):
    """Iterations that do nothing, or fail."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.fail_at = fail_at
        self.failed = False

    def run_step(self) -> None:
        if self.iter == self.fail_at:
            self.failed = True
            raise FloatingPointError("on purpose")


@pytest.mark.parametrize(
    ("period", "expected"), [(0, [6]), (2, [2, 4, 6]), (4, [4, 6]), (6, [6]), (100, [6])]
)
def test_evaluation_takes_place_once_after_the_last_iteration(
    period: int, expected: list[int]
) -> None:
    loop, done = Loop(), []

    def evaluate() -> dict[str, dict[str, float]]:
        done.append(min(loop.iter + 1, 6))
        return {"bbox": {"AP": float(len(done))}}

    loop.register_hooks([EvaluationHook(period, evaluate)])
    with EventStorage() as storage:
        loop.train(0, 6)
        assert done == expected
        del storage
    assert loop.storage.latest()["bbox/AP"][0] == len(expected)


@pytest.mark.parametrize("fail_at", [0, 3, 5])
def test_no_evaluation_after_a_failure(fail_at: int) -> None:
    loop, done = Loop(fail_at), []
    loop.register_hooks([EvaluationHook(0, lambda: done.append(1) or {})])
    with pytest.raises(FloatingPointError):
        loop.train(0, 6)
    assert done == []


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.pth"))


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
    train(8, 10)
    assert names(tmp_path) == [
        "model_0000007.pth", "model_0000009.pth", "model_best.pth", "model_final.pth",
    ]
