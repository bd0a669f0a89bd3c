"""The operator's benchmark runs and writes all its files."""

import json
import re
from types import ModuleType

import pytest
import torch
from tool_files import load_tool

from vit_adapter.benchmark.op import Case
from vit_adapter.ops.extension import select_backend


@pytest.fixture
def tool() -> ModuleType:
    return load_tool("benchmark_op")


@pytest.fixture
def small(tool, monkeypatch) -> None:
    """A single small case, which is fast."""
    monkeypatch.setattr(tool, "CASES", {"small": Case(64, 2, 8, (16,), (8, 16, 32))})


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
    content = json.loads((tmp_path / "benchmark_op.json").read_text())
    records, overhead = content["records"], content["overhead_us"]
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
        assert 0 < overhead["kernel"] < overhead["operator"] < overhead["public function"]
        assert f"public function {overhead['public function']:.1f} us, operator" in table


def test_figures_are_written_after_each_case(tool, small, tmp_path, monkeypatch):
    def measure(inputs, *options):
        if inputs.value.dtype == torch.bfloat16:
            raise RuntimeError("stopped")
        yield {"formulation": "ours", "error": "CompilationError: a | b"}

    monkeypatch.setattr(tool, "measure", measure)
    found = tool.find_formulations(torch.device("cpu"))[0]
    monkeypatch.setattr(tool, "find_formulations", lambda device: (found, {"deformops": "broken"}))
    options = ["--output", str(tmp_path), "--points", "local", "--dtypes", "float32"]
    tool.main(options)  # the chart, too
    (tmp_path / "benchmark_op.json").unlink()
    with pytest.raises(RuntimeError, match="stopped"):
        tool.main([*options, "bfloat16"])
    content = json.loads((tmp_path / "benchmark_op.json").read_text())
    setting = {"dtype": "float32", "points": "local", "case": "small", "formulation": "ours"}
    assert content["records"] == [setting | {"error": "CompilationError: a | b"}]
    assert content["absent"] == {"deformops": "broken"}
    table = (tmp_path / "benchmark_op.md").read_text()
    assert "| small | ours | CompilationError: a \\| b |" in table
    assert "Absent: deformops (broken)." in table
