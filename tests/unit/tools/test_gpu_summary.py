"""The summary of a GPU's figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMES = {  # forward, forward + backward
    "ours": (1.0, 3.0),
    "ours, deterministic": (1.0, 6.0),
    "grid_sample": (9.0, 9.0),
    "mmcv": (2.0, 4.0),
}


def make_records(case: str = "S 896 injector", **changes: tuple[float, float]) -> list[dict]:
    setting = {"case": case, "dtype": "float32", "points": "local"}
    return [
        {
            **setting,
            "formulation": name,
            "forward_ms": forward,
            "training_ms": training,
            "forward_share_of_bound": 0.5 / forward,
        }
        for name, (forward, training) in {**TIMES, **changes}.items()
    ]


@pytest.fixture
def summarise(project_root, tmp_path):
    """Run the tool on records; return the last row of its table and the exit status."""

    def run(records: list[dict]) -> tuple[str, int]:
        file = tmp_path / "benchmark_op.json"
        file.write_text(json.dumps({"machine": "a GPU", "records": records}))
        tool = project_root / "projects" / "ViTAdapter" / "tools" / "gpu_summary.py"
        process = subprocess.run([sys.executable, tool, file], capture_output=True, text=True)
        assert process.stdout.startswith("a GPU"), process.stderr
        return process.stdout.splitlines()[-1], process.returncode

    return run


def test_good_figures(summarise):
    line, status = summarise(make_records())
    assert line == "| S 896 injector | 2.00 | 2.00 | 2.50 | 0.75 |"
    assert status == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ours": (1.0, 4.5), "mmcv": (9.0, 9.0)}, "3.50 (missed)"),
        ({"ours": (1.75, 3.5)}, "3.50 (missed)"),
        ({"ours, deterministic": (1.0, 8.0)}, "3.50 (missed)"),
        ({"mmcv": (1.0, 2.0)}, "1.50 (missed)"),
    ],
)
def test_figures_beyond_a_limit(changes, expected, summarise):
    line, status = summarise(make_records(**changes))
    assert line.count("missed") == 1 and expected in line
    assert status == 1


def test_small_cases_do_not_count(summarise):
    _, status = summarise(make_records("S 512 injector"))
    assert status == 1  # nothing else was measured


def test_without_other_kernels(summarise):
    records = [record for record in make_records() if record["formulation"] != "mmcv"]
    line, status = summarise(records)
    assert line.endswith("| not measured |")
    assert status == 0


@pytest.mark.parametrize("failing", ["", "--tool racecheck", "gpu_summary.py"])
def test_report_runs_every_step(failing, project_root, tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("nvidia-smi", "compute-sanitizer", "python"):
        stub = f'#!/bin/bash\necho "{name} $*" >> {tmp_path}/calls\n'
        if failing:
            stub += f'[[ "$*" != *"{failing}"* ]]\n'
        (programs / name).write_text(stub)
        (programs / name).chmod(0o755)
    script = Path("projects", "ViTAdapter", "tools", "gpu_report.sh")
    process = subprocess.run(
        ["bash", project_root / script, tmp_path / "report"],
        env={"PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    calls = (tmp_path / "calls").read_text()
    for step in (
        "pytest -q -m cuda tests",
        "--tool memcheck",
        "--tool racecheck",
        "benchmark_op.py --device cuda",
        "gpu_summary.py",
        "benchmark_backbone.py --device cuda",
    ):
        assert step in calls
    assert process.returncode == (1 if failing else 0), process.stdout
    assert ("FAILED" in process.stdout) == bool(failing)
