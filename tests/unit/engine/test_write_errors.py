"""Checkpoints that cannot be written: what is said, what stays, and whether training goes on."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.engine import TrainerBase
from detectron2.utils.events import EventWriter
from torch import nn

from vit_adapter.checkpoint import checkpointer as module, sharded as folders
from vit_adapter.checkpoint.checkpointer import Checkpointer, CheckpointWriteError
from vit_adapter.checkpoint.resumable import find_resumable
from vit_adapter.engine.hooks import PeriodicCheckpointer
from vit_adapter.engine.metric_writer import PeriodicWriter


@pytest.fixture()
def file_size_limit() -> Iterator[object]:
    """A function that limits the size of files, as a full disk would."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield limit
    limit(None)


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path, file_size_limit) -> None:
    checkpointer = Checkpointer(nn.Linear(200, 200), str(tmp_path))
    checkpointer.save("model_0000001")
    before = sorted(os.listdir(tmp_path))
    file_size_limit(1 << 15)
    message = (
        r"model_0000003\.pth cannot be written by process 0 on .*: File too large\. The last whole "
        r"checkpoint is .*model_0000001\.pth\. Raise the limit.*--resume"
    )
    with pytest.raises(CheckpointWriteError, match=message):
        checkpointer.save("model_0000003")
    file_size_limit(None)
    assert sorted(os.listdir(tmp_path)) == before
    assert find_resumable(tmp_path).name == "model_0000001.pth"


def test_a_folder_that_was_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    checkpointer = Checkpointer(nn.Linear(1, 1), str(folder))
    shutil.rmtree(folder)
    with pytest.raises(CheckpointWriteError, match=r"No such file.*no earlier one\. Restore train"):
        checkpointer.save("model_0000001")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "No space left on device.*Free space on that file system"),
        (errno.EACCES, r"Permission denied.*Make train\.output_dir writable"),
        (errno.EROFS, "Make the file system"),
        (errno.EIO, "Check the disk and the folder"),
    ],
)
def test_the_error_says_what_to_do(
    number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(data: object, file: str) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "atomic_save", fail)
    with pytest.raises(CheckpointWriteError, match=remedy):
        Checkpointer(nn.Linear(1, 1), str(tmp_path)).save("model_0000001")


class Loop(TrainerBase):
    """Iterations that do nothing; the folder is away during those in ``broken``."""

    failed = False

    def __init__(self, folder: Path, broken: set[int]) -> None:
        super().__init__()
        self.folder, self.broken = folder, broken

    def run_step(self) -> None:
        away = self.folder.with_name("away")
        if self.iter in self.broken and self.folder.exists():
            self.folder.rename(away)
        elif self.iter not in self.broken and away.exists():
            away.rename(self.folder)


def train(folder: Path, broken: set[int], period: int = 2, *, sharded: bool = False) -> list[str]:
    folder.mkdir()
    loop = Loop(folder, broken)
    checkpointer = Checkpointer(nn.Linear(1, 1), str(folder), sharded=sharded)
    loop.register_hooks([PeriodicCheckpointer(checkpointer, period=period)])
    loop.train(0, 8)
    return sorted(file.stem for file in folder.glob("model_*"))


def test_training_goes_on_after_one_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = train(tmp_path / "run", broken={1, 5})
    assert written == ["model_0000003", "model_0000007", "model_final"]
    assert caplog.text.count("Training goes on, and stops if the next checkpoint, after 2") == 2


@pytest.mark.parametrize("step", ["atomic_save", "publish_folder"])
def test_so_it_does_if_a_folder_cannot_be_written(
    step: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At its start, or in the background: then it is noticed when the next one is due."""
    whole, calls = getattr(folders, step), []

    def fail_once(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(*arguments)

    monkeypatch.setattr(folders, step, fail_once)
    written = train(tmp_path / "run", set(), sharded=True)
    assert written[-2:] == ["model_0000007", "model_final"] and "model_0000001" not in written
    assert "No space left on device" in caplog.text
    assert caplog.text.count("Training goes on, and stops if the next checkpoint, after 2") == 1


@pytest.mark.parametrize(
    ("broken", "period", "name"),
    [({3, 4, 5}, 2, "model_0000005"), ({7}, 2, "model_0000007"), ({7}, 100, "model_final")],
)
def test_training_stops_after_two_failures_and_at_the_end(
    broken: set[int], period: int, name: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointWriteError, match=name):
        train(tmp_path / "run", broken, period)


class FullDisk(EventWriter):
    """A writer that fails."""

    def write(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    close = write


class Counter(EventWriter):
    """A writer that counts its calls."""

    calls = 0

    def write(self) -> None:
        self.calls += 1


def test_metrics_that_cannot_be_written_do_not_stop_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop, counter = Loop(tmp_path, set()), Counter()
    loop.register_hooks([PeriodicWriter([FullDisk(), counter], period=3)])
    loop.train(0, 8)
    assert counter.calls == 4  # iterations 2, 5 and 7, and the end
    assert caplog.text.count("FullDisk cannot write metrics: [Errno 28] No space left") == 1


def test_other_errors_of_writers_are_raised() -> None:
    class Broken(EventWriter):
        def write(self) -> None:
            raise ValueError("a mistake in the writer")

    loop = Loop(Path(), set())
    loop.register_hooks([PeriodicWriter([Broken()], period=1)])
    with pytest.raises(ValueError, match="a mistake"):
        loop.train(0, 1)
