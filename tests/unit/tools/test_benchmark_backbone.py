"""The benchmark of the backbone runs, and its variants differ only in the operator."""

from __future__ import annotations

import importlib
import os
import re
from types import ModuleType

import pytest
import torch

from vit_adapter.layers import deform_attn


@pytest.fixture
def tool(project_root, monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(project_root / "projects" / "ViTAdapter" / "tools")
    return importlib.import_module("benchmark_backbone")


def test_prints_forward_and_training_step(tool, capsys):
    threads = str(torch.get_num_threads())
    tool.main(["--sizes", "tiny", "--image-size", "64", "--repeats", "1", "--threads", threads])
    machine, _, header, _, forward, training = capsys.readouterr().out.splitlines()
    assert f"{threads} threads" in machine
    assert header.count("|") == forward.count("|")
    assert re.fullmatch(r"\| tiny \| forward \| \d+ \| \d+ \| \d+\.\d\dx \|", forward)
    assert re.fullmatch(r"\| tiny \| training step \| \d+ \| \d+ \| \d+\.\d\dx \|", training)


def test_variants_compute_the_same_in_different_ways(tool, monkeypatch):
    used = []

    def record(*inputs: object) -> torch.Tensor:
        used.append(os.environ.get(tool.FORCE_REFERENCE))
        return compute(*inputs)

    compute = deform_attn.ms_deform_attn
    monkeypatch.setattr(deform_attn, "ms_deform_attn", record)
    model = tool.build("tiny", torch.device("cpu")).eval()
    call = tool.forward_call(model, torch.randn(1, 3, 64, 64))
    ours, reference = call(), tool.with_grid_sample(call)()
    torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)
    calls = len(used) // 2
    assert used[:calls] != used[calls:]
    assert set(used[calls:]) == {"1"}


def test_table_shows_the_gain_of_compiling(tool):
    times = {"ours": 200.0, "grid_sample": 300.0, "compiled": 160.0}
    expected = "| tiny | forward | 300 | 200 | 1.50x | 160 | 1.25x |"
    assert tool.row("tiny", "forward", times) == expected
