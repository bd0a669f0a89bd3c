"""The benchmark of the operator runs, and draws the points that it claims to."""

from __future__ import annotations

import importlib.util
import re

import pytest
import torch


@pytest.fixture
def tool(project_root):
    path = project_root / "projects" / "ViTAdapter" / "tools" / "benchmark_op.py"
    spec = importlib.util.spec_from_file_location("benchmark_op", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prints_one_row_per_case(tool, monkeypatch, capsys):
    small = {"small": tool.Case(64, 2, 8, (16,), (8, 16, 32))}
    monkeypatch.setattr(tool, "CASES", small)
    threads = str(torch.get_num_threads())
    tool.main(["--cases", "small", "--repeats", "1", "--threads", threads, "--dtype", "bfloat16"])
    machine, header, _, row = capsys.readouterr().out.splitlines()
    assert f"{threads} threads" in machine
    assert header.count("|") == row.count("|")
    assert re.search(r"\| small \|( \d+\.\d\d \|){6} \d+\.\dx / \d+\.\dx \|$", row)


def test_local_points_stay_near_their_query(tool):
    inputs = tool.make_inputs(tool.CASES["S 512 injector"], "local")
    assert inputs.value.shape == (1, 5376, 6, 64)
    assert inputs.sampling_locations.shape == (1, 1024, 6, 3, 4, 2)
    # Query 33 lies at row 1, column 1 of the 32 x 32 grid; the finest level has 64 pixels.
    centre = torch.tensor([1.5 / 32, 1.5 / 32])
    distance = (inputs.sampling_locations[0, 33, :, 0] - centre).abs().max() * 64
    assert distance < 4 + 5 * tool.OFFSET_NOISE
    weights = inputs.attention_weights.sum((-1, -2))
    torch.testing.assert_close(weights, torch.ones_like(weights))
