"""tools/gpu_summary.py: the collected results, and the limits of the operator's figures."""

import json

import pytest
from tool_files import load_tool

TIMES = {  # forward, forward + backward
    "ours": (1.0, 3.0),
    "ours, deterministic": (1.0, 6.0),
    "grid_sample": (0.1, 0.2),
    "mmcv": (2.0, 4.0),
}
KERNELS = """==PROF== Connected to process 7
"ID","Kernel Name","gpu__time_duration.sum","launch__registers_per_thread"
"","","us","register/thread"
"0","forward_kernel<float, 4>","57.1","64"
"1","backward_kernel<float, 4>","301.0",""
"""


@pytest.fixture
def tool():
    return load_tool("gpu_summary")


def make_records(case: str = "S 640 injector", **changes: tuple[float, float]) -> list[dict]:
    return [
        {
            "case": case,
            "dtype": "bfloat16",
            "formulation": name,
            "forward_ms": forward,
            "training_ms": training,
            "forward_share_of_bound": 0.6 / forward,
            "training_share_of_bound": 1.0 / training,
            "reduced_bytes": 1e9,
        }
        for name, (forward, training) in {**TIMES, **changes}.items()
    ]


@pytest.fixture
def summarise(tool, tmp_path, capsys):
    """Run the tool on records; return the last row of its table, the exit status and the report."""

    def run(
        records: list[dict], reductions: float = 0.8e12, **content: object
    ) -> tuple[str, int, dict]:
        content["records"] = records
        (tmp_path / "benchmark_op.json").write_text(json.dumps(content))
        (tmp_path / "ceilings.json").write_text(json.dumps({"reductions": reductions}))
        status = tool.main([str(tmp_path)])
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| S")]
        return lines[-1], status, json.loads((tmp_path / "report.json").read_text())

    return run


def test_good_figures(summarise):
    line, status, report = summarise(make_records())
    # The additions take 1.25 ms of the backward pass's 2 ms.
    assert line == "| S 640 injector | bfloat16 | 1.67 | 1.60 | 2.50 | 0.50 | 0.75 |"
    assert status == 0
    assert report["figures"]["benchmark_op"]["records"] == make_records()
    assert report["ratios"][0]["backward / bound"] == pytest.approx(1.6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ours": (1.3, 3.3)}, "2.17 (missed)"),
        ({"ours": (1.0, 3.6)}, "2.08 (missed)"),
        ({"ours, deterministic": (1.0, 8.0)}, "3.50 (missed)"),
        ({"mmcv": (0.8, 4.0)}, "1.25 (missed)"),
        ({"mmcv": (2.0, 2.4)}, "1.25 (missed)"),
    ],
)
def test_figures_beyond_a_limit(changes, expected, summarise):
    records = make_records(**changes)
    for record in records:
        record["forward_share_of_bound"] = 0.6 / record["forward_ms"]
    line, status, _ = summarise(records)
    assert line.count("missed") == 1 and expected in line
    assert status == 1


def test_the_bytes_to_move_bound_the_backward_pass_too(summarise):
    line, _, _ = summarise(make_records(), reductions=1e15)
    assert "| 5.00 (missed) |" in line  # 2 ms for 1.0 - 0.6 ms


def test_every_case_and_dtype_has_a_row(summarise):
    records = make_records() + make_records("S 896 injector", mmcv=(0.5, 4.0))
    line, status, report = summarise(records)
    assert line.startswith("| S 896") and "2.00 (missed)" in line and status == 1
    assert [row["case"] for row in report["ratios"]] == ["S 640 injector", "S 896 injector"]


def test_without_other_kernels(summarise):
    records = [record for record in make_records() if record["formulation"] != "mmcv"]
    line, status, _ = summarise(records)
    assert line.endswith("| not measured | not measured |")
    assert status == 0


def test_kernels_that_were_not_compared(summarise, tool, tmp_path, capsys):
    records = make_records()
    records[-1] = {
        "case": "S 640 injector",
        "dtype": "bfloat16",
        "formulation": "mmcv",
        "error": "RuntimeError: out of memory",
    }
    _, status, report = summarise(records, absent={"deformops": "ImportError: no Triton"})
    assert status == 0 and report["ratios"][0]["forward / fastest other"] is None
    assert report["not_compared"] == [
        "deformops is absent: ImportError: no Triton",
        "mmcv does not run for S 640 injector in bfloat16: RuntimeError: out of memory",
    ]
    tool.main([str(tmp_path)])
    assert "\n".join(report["not_compared"]) in capsys.readouterr().out.replace("\n\n", "\n")


@pytest.mark.parametrize(
    ("status", "expected"), [("passed", 0), ("skipped", 0), ("failed", 1), ("timed out", 1)]
)
def test_steps(status, expected, tool, tmp_path):
    (tmp_path / "steps_models.tsv").write_text(f"compiled\t{status}\t12\twhy\n")
    (tmp_path / "steps_operator.tsv").write_text("gpu\tpassed\t1\t\n")
    for name in ("gpu", "compiled"):
        (tmp_path / f"{name}.txt").write_text("one\n" * 100 + "last\n")
    (tmp_path / "compiled.json").write_text('{"records": [')  # stopped while it was written
    assert tool.main([str(tmp_path)]) == expected
    report = json.loads((tmp_path / "report.json").read_text())
    first, second = report["steps"]
    assert first == {
        "command": "operator",
        "name": "gpu",
        "status": "passed",
        "seconds": 1,
        "note": "",
    }
    assert (second["name"], second["seconds"], second["note"]) == ("compiled", 12, "why")
    assert ("output" in second) == (status != "passed")
    if status != "passed":
        assert second["output"][-1] == "last" and len(second["output"]) < 50
    assert report["figures"] == {} and report["ratios"] == []
    (skipped,) = report["skipped"]
    assert skipped.startswith("compiled.json is not complete: ")


def test_kernels(tool, tmp_path):
    file = tmp_path / "profile.txt"
    assert tool.read_kernels(file, []) == []
    file.write_text("==ERROR== nothing was profiled\n")
    assert tool.read_kernels(file, []) == []
    file.write_text(KERNELS)
    first, second = tool.read_kernels(file, skipped := [])
    assert skipped == []
    assert first["Kernel Name"] == "forward_kernel<float, 4>"
    assert first["gpu__time_duration.sum"] == "57.1 us"
    assert "launch__registers_per_thread" not in second


def test_what_cannot_be_read_is_skipped(tool, tmp_path, capsys):
    (tmp_path / "steps_operator.tsv").write_text(
        "gpu\tskipped\t1\ta\tb\ntests\tpassed\nops\tfailed\t"
    )
    # Stopped in the middle of a name, and of the last number; the quotation marks are missing.
    rows = KERNELS + '"2","backward_ker\n"3","forward","57.0","6\n'
    (tmp_path / "profile.txt").write_text(rows)
    assert tool.main([str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [step["note"] for step in report["steps"]] == ["a\tb"]
    assert [kernel["ID"] for kernel in report["kernels"]] == ["0", "1"]
    assert report["skipped"] == [
        "steps_operator.tsv: 'tests\\tpassed' is not a step",
        "steps_operator.tsv: 'ops\\tfailed\\t' is not a step",
        "profile.txt: kernel 2 is not complete",
        "profile.txt: kernel 3 is not complete",
    ]
    output = capsys.readouterr().out
    assert all(f"skipped: {line}" in output for line in report["skipped"])


def make_speed(name: str, mode: str, images_per_second: float, **changes: object) -> dict:
    record = {"config": f"ade20k/mask2former_vit_adapter_{name}_dinov2_512_40k"}
    record |= {"size": [640, 640], "batch_size": 1, "training": False}
    record |= {"precision": "bf16-weights", "mode": mode, "images_per_second": images_per_second}
    return {**record, **changes}


def test_speeds_and_their_targets(tool, tmp_path, capsys):
    failed = make_speed("large", "eager", 0)
    del failed["images_per_second"]
    eager = [
        make_speed("small", "eager", 50),
        make_speed("small", "graph", 115.04),
        make_speed("base", "graph", 200, batch_size=4),
        make_speed("base", "graph", 200, size=[512, 512]),
        make_speed("base", "eager", 200, training=True),
        failed | {"error": "RuntimeError: out of memory"},
    ]
    compiled = [make_speed("small", "compiled", 90), make_speed("base", "compiled", 99.94)]
    for name, records in (("inference", eager), ("compiled", compiled)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"records": records}))
    assert tool.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1:] for line in lines if "ade20k" in line] == [
        ["bf16-weights, graph", "115.0", "115 |"],
        ["bf16-weights, compiled", "99.9 (missed)", "100 |"],
        ["", "not measured", "70 |"],
    ]
    found = json.loads((tmp_path / "report.json").read_text())["speeds"]
    assert [row["images_per_second"] for row in found] == [115.04, 99.94, None]
