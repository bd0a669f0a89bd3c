"""How a run of two processes ends when one of them fails, is killed, or receives a signal."""

import os
import re
import time
from pathlib import Path
from typing import NamedTuple

import forked
import pytest
from forked import start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals"),
]

PROGRAM = Path(__file__).with_name("end_early.py")


class End(NamedTuple):
    """How the process that started the two has ended."""

    status: int
    output: str
    seconds: float  # since the fault


def run_program(folder: Path, what: str, launcher: str) -> End:
    (folder / "run").mkdir()
    arguments = (str(folder / "run"), what)
    if launcher == "own":
        process = start(PROGRAM, "main", *arguments, output=folder / "output")
    else:
        call = ("torchrun", [], PROGRAM.stem, "main", *arguments)
        program = Path(forked.__file__)
        process = start(program, *call, folders=[PROGRAM.parent], output=folder / "output")
    process.join(600)
    output = (folder / "output").read_text()
    fault = re.search(r"fault at (\S+)", output)
    assert fault, output
    return End(process.exitcode, output, time.time() - float(fault[1]))


@pytest.mark.parametrize(
    ("what", "launcher", "status"),
    [
        ("signal to one process", "own", 138),
        ("signal to the launcher", "own", 143),
        ("signal to the launcher", "torchrun", 1),
    ],
)
def test_both_stop_after_the_same_step(
    what: str, launcher: str, status: int, tmp_path: Path
) -> None:
    end = run_program(tmp_path, what, launcher)
    stopped = {line[-1] for line in map(str.split, end.output.splitlines()) if "stopped" in line}
    assert end.output.count("stopped at") == 2, end.output
    assert len(stopped) == 1
    iteration = int(stopped.pop())
    assert [file.name for file in (tmp_path / "run").glob("*.pth")] == [
        f"model_{iteration:07d}.pth"
    ]
    assert end.status == status, end.output
    if launcher == "own":
        assert "Traceback" not in end.output


@pytest.mark.parametrize("launcher", ["own", "torchrun"])
def test_an_exception_stops_the_other_process(launcher: str, tmp_path: Path) -> None:
    end = run_program(tmp_path, "exception", launcher)
    assert end.status == 1
    assert "process 1 fails on purpose" in end.output
    assert "in act" in end.output  # the traceback
    assert end.seconds < 60


@pytest.mark.parametrize("launcher", ["own", "torchrun"])
def test_a_killed_process_stops_the_other_one(launcher: str, tmp_path: Path) -> None:
    end = run_program(tmp_path, "SIGKILL", launcher)
    assert end.status == 1
    if launcher == "own":
        assert "process 1 of this machine was ended by SIGKILL" in end.output
        assert "memory runs out" in end.output
    else:  # whichever end is noticed first
        noticed = r"Signal 9 \(SIGKILL\)|Connection (closed|reset) by peer"
        assert re.search(noticed, end.output), end.output
    assert end.seconds < 60
