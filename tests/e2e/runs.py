"""Runs of ``train_net.py`` and what they leave behind."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import forked

ROOT = Path(__file__).parents[2]


def run_two_processes(commands: list[list[str]]) -> str:
    """Run the commands one after the other in two processes; return what they print.

    Args:
        commands: arguments of ``train_net.py`` for each run.
    """
    program = Path(__file__).with_name("run_two_processes.py")
    return forked.run_group(program, commands)


def losses(run: Path) -> list[float]:
    """The total losses in ``metrics.json``, smoothed as there."""
    return list(losses_by_iteration(run).values())


def fork(command: list[str], output: Path) -> BaseProcess:
    """Start ``train_net.py``, which appends what it prints to a file."""
    return forked.start(ROOT / "train_net.py", "main", command, output=output)


def start(command: list[str], launcher: Sequence[str] = ()) -> subprocess.Popen:
    """Start ``train_net.py`` with an interpreter of its own."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "projects/ViTAdapter"), *sys.path]),
    }
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / "train_net.py"), *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def metrics(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses_by_iteration(run: Path) -> dict[int, float]:
    return {
        int(entry["iteration"]): entry["total_loss"]
        for entry in metrics(run)
        if "total_loss" in entry
    }
