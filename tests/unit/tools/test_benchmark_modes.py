"""The benchmark of the modes prints its table."""

import re
from types import ModuleType

import pytest
import torch
from tool_files import load_tool

from vit_adapter.ops.extension import select_backend


@pytest.fixture
def tool() -> ModuleType:
    return load_tool("benchmark_modes")


def test_frozen_needs_the_least_memory(tool, capsys):
    threads = str(torch.get_num_threads())
    tool.main(["--sizes", "tiny", "--image-size", "128", "--repeats", "1", "--threads", threads])
    machine, _, header, _, *rows = capsys.readouterr().out.splitlines()
    assert f"{threads} threads" in machine and "128 px" in machine
    cells = {row.split(" | ")[1]: re.findall(r"[\d.]+", row) for row in rows}
    assert list(cells) == ["full", "frozen", "light"]
    assert all(row.count("|") == header.count("|") for row in rows)
    full, frozen, light = ([float(cell) for cell in row] for row in cells.values())
    assert full[0] == 8.0  # as published for ViT-Adapter-T; its ViT alone has 5.5
    assert frozen[0] < 8.0 - 5.5 and light[0] > 5.5
    assert frozen[1] < full[1]
    if select_backend("cpu") == "kernel":  # plain PyTorch keeps all samples of the adapter
        assert frozen[1] < light[1]
    for column in range(2, 5):
        assert frozen[column] < min(light[column], full[column])
