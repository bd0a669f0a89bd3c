"""The benchmark of the modes counts the memory that a training step keeps."""

from __future__ import annotations

import importlib
import re
from types import ModuleType

import pytest
import torch
from torch import nn

from vit_adapter.ops.extension import select_backend


@pytest.fixture
def tool(project_root, monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(project_root / "projects" / "ViTAdapter" / "tools")
    return importlib.import_module("benchmark_modes")


class Squares(nn.Module):
    """Autograd keeps its input and its activation, each once although both are used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4, bias=False)
        self.fixed = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.linear(rows)
        return {"a": hidden * hidden.view(-1, 2, 2).flatten(1)}


def test_counts_each_storage_once(tool):
    cost = tool.measure_memory(Squares(), torch.randn(16, 8))
    rows, hidden, product = 16 * 8 * 4, 16 * 4 * 4, 16 * 4 * 4  # the loss squares the product
    assert cost.activations == rows + hidden + product
    assert cost.trainable == 32 and cost.gradients == 32 * 4
    assert cost.optimizer == 2 * 32 * 4 + 4  # two moments, and a counter
    assert cost.total == cost.activations + cost.gradients + cost.optimizer


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
