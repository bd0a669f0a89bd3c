"""The operator's benchmark runs, writes all its files, and draws the right points."""

from __future__ import annotations

import importlib
import json
import re
from types import ModuleType

import pytest
import torch

from vit_adapter.ops.extension import select_backend


@pytest.fixture
def tool(project_root, monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(project_root / "projects" / "ViTAdapter" / "tools")
    return importlib.import_module("benchmark_op")


@pytest.fixture
def small(tool, monkeypatch) -> None:
    """A single small case, which is fast."""
    monkeypatch.setattr(tool, "CASES", {"small": tool.Case(64, 2, 8, (16,), (8, 16, 32))})


def test_writes_tables_numbers_and_a_chart(tool, small, tmp_path, capsys):
    threads = str(torch.get_num_threads())
    options = ["--repeats", "1", "--threads", threads, "--output", str(tmp_path)]
    tool.main([*options, "--dtypes", "float32", "bfloat16", "--points", "local"])
    table = (tmp_path / "benchmark_op.md").read_text()
    assert table in capsys.readouterr().out
    assert f"{threads} threads" in table
    pattern = (
        r"\| small \| ours \| \d+\.\d+ \| \d+\.\d+ \| \d+\.\dx / \d+\.\dx \| \d+% / \d+% \| "
        r"\de-\d+ / \de-\d+ \| \d+\.\d \|"
    )
    assert len(re.findall(pattern, table)) == 2
    assert (tmp_path / "benchmark_op.png").stat().st_size > 10_000
    records = json.loads((tmp_path / "benchmark_op.json").read_text())["records"]
    names = ["ours", "grid_sample", "embedding_bag"]
    assert [(r["dtype"], r["formulation"]) for r in records] == [
        (dtype, name) for dtype in ("float32", "bfloat16") for name in names
    ]
    references = {r["dtype"]: r for r in records if r["formulation"] == "grid_sample"}
    for record in records:
        limit = 1e-5 if record["dtype"] == "float32" else 1e-2
        assert 0 < record["error_output"] < limit and 0 < record["error_gradients"] < limit
        for run in ("forward", "training"):
            expected = references[record["dtype"]][f"{run}_ms"] / record[f"{run}_ms"]
            assert record[f"{run}_gain"] == expected
    # At least output and gradients; plain PyTorch also keeps its samples.
    inputs = tool.make_inputs(tool.CASES["small"], "local")
    kept = inputs.value.nbytes + inputs.sampling_locations.nbytes + inputs.attention_weights.nbytes
    ours, reference = records[0]["peak_mib"], records[1]["peak_mib"]
    assert kept / 2**20 < min(ours, reference)
    if select_backend("cpu") == "kernel":
        assert ours < reference


def test_counts_the_bytes_that_must_be_moved(tool):
    inputs = tool.make_inputs(tool.Case(512, 6, 64, (16,), (8, 16, 32)), "uniform")
    forward, training = tool.minimal_bytes(inputs)
    assert forward == pytest.approx(10.7e6, rel=0.01)
    assert training - forward == pytest.approx(19.9e6, rel=0.01)


def test_only_kernels_of_other_projects_may_refuse(tool, capsys):
    def refuse(*inputs: object) -> None:
        raise RuntimeError('not implemented for "Half"\nin a file')

    inputs = tool.make_inputs(tool.Case(32, 1, 8, (16,), (16,)), "local")
    assert not tool.runs("mmcv", refuse, inputs)
    assert capsys.readouterr().out == 'mmcv does not run: not implemented for "Half"\n'
    with pytest.raises(RuntimeError, match="not implemented"):
        tool.runs("ours", refuse, inputs)


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
