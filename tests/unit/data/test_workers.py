"""Data workers that die or hang, and the signals that they leave to the main process."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from vit_adapter.data.loader import TrainLoader
from vit_adapter.data.workers import (
    DataWorkerError,
    explained_worker_errors,
    protect_workers,
    start_workers,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals")

RECORDS = [{"file_name": f"image_{number}.jpg"} for number in range(4)]


class Mapper:
    """Returns the record with the process that read it; acts on one of them."""

    def __init__(self, action: str = "", folder: Path = Path()) -> None:
        self.action, self.folder = action, folder

    def __call__(self, record: dict) -> dict:
        if record["file_name"] == "image_2.jpg":
            if self.action == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.action == "hang":
                (self.folder / "pid").write_text(str(os.getpid()))
                time.sleep(1000)
        return {**record, "pid": os.getpid()}


def make_loader(mapper: Mapper, **options: object) -> TrainLoader:
    loader = TrainLoader(
        RECORDS,
        mapper=mapper,
        total_batch_size=1,
        aspect_ratio_grouping=False,
        num_workers=2,
        **options,
    )
    loader.begin(seed=1, step=0)
    return loader


def read(loader: TrainLoader) -> None:
    with explained_worker_errors(loader):
        for _, batch in zip(range(8), loader, strict=False):
            assert batch


def run_python(program: str) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_a_worker_that_is_killed() -> None:
    with pytest.raises(DataWorkerError) as caught:
        read(make_loader(Mapper("die")))
    message = str(caught.value)
    assert re.search(r"process 0: DataLoader worker \(pid.* \d+\).*(killed|exited)", message)
    assert re.search(r"worker [01] \(pid \d+\): image_2\.jpg, for \d+ s", message)
    for remedy in ("memory was used up", "num_workers", "/dev/shm", "--resume"):
        assert remedy in message


def test_a_worker_that_hangs_is_named_and_ends_with_the_program(tmp_path: Path) -> None:
    done = run_python(
        "from pathlib import Path\nimport test_workers as t\n"
        f"t.read(t.make_loader(t.Mapper('hang', Path({str(tmp_path)!r})), timeout=2))"
    )
    assert done.returncode == 1
    message = done.stderr.partition("DataWorkerError: ")[2]
    assert "timed out after 2 seconds" in message
    assert re.search(r"worker [01] \(pid \d+\): image_2\.jpg, for \d+ s", message)
    assert "raise dataloader.train.timeout" in message
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_without_workers_there_is_no_timeout() -> None:
    loader = TrainLoader(
        RECORDS, mapper=Mapper(), total_batch_size=1, aspect_ratio_grouping=False, timeout=1
    )
    read(loader)


def test_a_program_ends_while_workers_are_running() -> None:
    done = run_python(
        "import os, test_workers as t\n"
        "workers = t.pids(t.make_loader(t.Mapper()))\n"
        "print(next(workers), next(workers), flush=True)"
    )
    assert done.returncode == 0, done.stderr
    for pid in map(int, done.stdout.split()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def pids(loader: object) -> Iterator[int]:
    for batch in loader:
        yield batch[0]["pid"]


def send(pid: int, number: int) -> None:
    """Send a signal from another process, as a cluster does."""
    subprocess.run(["kill", f"-{int(number)}", str(pid)], check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_workers_go_on_after_signals(number: int) -> None:
    workers = pids(make_loader(Mapper()))
    seen = {next(workers) for _ in range(4)}
    assert len(seen) == 2 and os.getpid() not in seen
    for pid in seen:
        send(pid, number)
    assert {next(workers) for _ in range(12)} == seen


@pytest.mark.skipif(sys.platform != "linux", reason="reads the masks of threads in /proc")
def test_only_the_thread_that_waits_for_it_receives_the_signal() -> None:
    """If PyTorch has several threads, it starts some in a worker before ``worker_init_fn``."""
    done = run_python(
        "import pathlib, torch, test_workers as t\n"
        "torch.set_num_threads(2)\n"
        "workers = t.pids(t.make_loader(t.Mapper()))\n"
        "tasks = pathlib.Path(f'/proc/{next(workers)}/task')\n"
        "print(*(status.read_text() for status in tasks.glob('*/status')))"
    )
    masks = [int(mask, 16) for mask in re.findall(r"SigBlk:\s*(\w+)", done.stdout)]
    assert len(masks) > 2, done.stderr
    assert sum(not mask >> (signal.SIGTERM - 1) & 1 for mask in masks) <= 1


def test_workers_of_other_loaders_are_protected(tmp_path: Path) -> None:
    loader = DataLoader([[RECORDS[0]]] * 9, num_workers=1, collate_fn=_with_pid)
    protect_workers(loader)
    workers = pids(start_workers(loader))
    send(next(workers), signal.SIGTERM)
    assert len(list(workers)) == 8


def _with_pid(samples: list) -> list:
    return [{"pid": os.getpid()}]


def test_other_errors_are_not_explained() -> None:
    with pytest.raises(RuntimeError, match="^CUDA out of memory"), explained_worker_errors(None):
        raise RuntimeError("CUDA out of memory")
