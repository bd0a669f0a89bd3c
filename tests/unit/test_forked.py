"""The helper that forks the processes of other tests."""

import time
from pathlib import Path

import forked
import pytest
from detectron2.utils import comm

HERE = Path(__file__)


def work(failing: int) -> None:
    assert comm.get_world_size() == 2
    print("process", comm.get_rank())
    if comm.get_rank() == failing:
        raise ValueError("on purpose")
    if failing >= 0:
        time.sleep(1000)


def test_what_a_group_prints() -> None:
    lines = forked.run_group(HERE, -1).splitlines()
    assert {"process 0", "process 1"} <= set(lines), lines


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_ends_the_group(rank: int) -> None:
    with pytest.raises(AssertionError, match="ValueError: on purpose"):
        forked.run_group(HERE, rank)


def test_processes_that_take_too_long() -> None:
    with pytest.raises(AssertionError):
        forked.run_group(HERE, 2, timeout=1)
