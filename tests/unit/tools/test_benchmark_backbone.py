"""The benchmark of the backbone prints its table."""

import re
from types import ModuleType

import pytest
import torch
from tool_files import load_tool


@pytest.fixture
def tool() -> ModuleType:
    return load_tool("benchmark_backbone")


def test_prints_forward_and_training_step(tool, capsys):
    threads = str(torch.get_num_threads())
    tool.main(["--sizes", "tiny", "--image-size", "64", "--repeats", "1", "--threads", threads])
    machine, _, header, _, forward, training = capsys.readouterr().out.splitlines()
    assert f"{threads} threads" in machine
    assert header.count("|") == forward.count("|")
    assert re.fullmatch(r"\| tiny \| forward \| \d+ \| \d+ \| \d+\.\d\dx \|", forward)
    assert re.fullmatch(r"\| tiny \| training step \| \d+ \| \d+ \| \d+\.\d\dx \|", training)


def test_table_shows_the_gain_of_compiling(tool):
    times = {"ours": 200.0, "grid_sample": 300.0, "compiled": 160.0}
    expected = "| tiny | forward | 300 | 200 | 1.50x | 160 | 1.25x |"
    assert tool.row("tiny", "forward", times) == expected
