"""How a run of two processes ends when one of them fails, is killed, or receives a signal."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals"),
]

PROGRAM = """
import os
import signal
import sys
import time

import torch
import torch.distributed as dist
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import nn

from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.engine.interruption import StopOnSignal
from vit_adapter.engine.process_group import Process
from vit_adapter.engine.processes import ProcessLayout, launch
from vit_adapter.engine.torchrun import launched_process


class Loop(TrainerBase):
    failed = False

    def run_step(self):
        dist.all_reduce(torch.ones(1))  # waits for the other process
        if self.iter == 2:
            act(sys.argv[2])


def act(what):
    if comm.get_rank() == 1:
        print("fault at", time.time(), flush=True)
    if what == "signal to the launcher" and comm.get_rank() == 0:
        os.kill(os.getppid(), signal.SIGTERM)
    if comm.get_rank() == 1:
        if what == "signal to one process":
            os.kill(os.getpid(), signal.SIGUSR1)
        elif what == "exception":
            raise RuntimeError("process 1 fails on purpose")
        elif what == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)


def work(folder):
    loop = Loop()
    loop.register_hooks([StopOnSignal(Checkpointer(nn.Linear(1, 1), folder))])
    try:
        loop.train(0, 10_000_000)
    finally:
        print("process", comm.get_rank(), "stopped at", loop.iter, flush=True)


if __name__ == "__main__":
    layout = ProcessLayout(device_type="cpu", processes_per_machine=2)
    launch(work, launched_process("cpu") or layout, (sys.argv[1],))
"""

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def run_program(
    folder: Path, what: str, launcher: tuple[str, ...] = ()
) -> tuple[subprocess.CompletedProcess, float]:
    """Run the program; return how it ended, and how many seconds after the fault."""
    (folder / "program.py").write_text(PROGRAM)
    (folder / "run").mkdir()
    done = subprocess.run(
        [sys.executable, *launcher, str(folder / "program.py"), str(folder / "run"), what],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    fault = re.search(r"fault at (\S+)", done.stdout)
    assert fault, done.stderr
    return done, time.time() - float(fault[1])


@pytest.mark.parametrize(
    ("what", "launcher", "status"),
    [
        ("signal to one process", (), 138),
        ("signal to the launcher", (), 143),
        ("signal to the launcher", TORCHRUN, 1),
    ],
)
def test_both_stop_after_the_same_step(
    what: str, launcher: tuple[str, ...], status: int, tmp_path: Path
) -> None:
    done, _ = run_program(tmp_path, what, launcher)
    stopped = {line[-1] for line in map(str.split, done.stdout.splitlines()) if "stopped" in line}
    assert done.stdout.count("stopped at") == 2, done.stderr
    assert len(stopped) == 1
    iteration = int(stopped.pop())
    assert [file.name for file in (tmp_path / "run").glob("*.pth")] == [
        f"model_{iteration:07d}.pth"
    ]
    assert done.returncode == status, done.stderr
    if not launcher:
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("launcher", [(), TORCHRUN], ids=["own", "torchrun"])
def test_an_exception_stops_the_other_process(launcher: tuple[str, ...], tmp_path: Path) -> None:
    done, seconds = run_program(tmp_path, "exception", launcher)
    assert done.returncode == 1
    assert "process 1 fails on purpose" in done.stderr
    assert "in act" in done.stderr  # the traceback
    assert seconds < 60


@pytest.mark.parametrize("launcher", [(), TORCHRUN], ids=["own", "torchrun"])
def test_a_killed_process_stops_the_other_one(launcher: tuple[str, ...], tmp_path: Path) -> None:
    done, seconds = run_program(tmp_path, "SIGKILL", launcher)
    assert done.returncode == 1
    if launcher:
        assert "Signal 9 (SIGKILL)" in done.stderr
    else:
        assert "process 1 of this machine was ended by SIGKILL" in done.stderr
        assert "memory runs out" in done.stderr
    assert seconds < 60
