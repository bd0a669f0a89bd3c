"""Collect the results of ``gpu_report.sh`` in one file, and compare them with their limits.

    gpu_summary.py FOLDER

writes FOLDER/report.json with

* ``steps``: name, status ("passed", "failed", "timed out" or "skipped"), seconds, a note, and the
  end of the output unless it passed;
* ``figures``: what each step wrote as JSON, by the name of its file;
* ``kernels``: what Nsight Compute says of each kernel;
* ``skipped``: what could not be read of all this, such as a file that was not finished;
* ``ratios`` of the operator for each case and dtype, and their ``limits``:

  - the forward pass to the bandwidth bound, at most 2;
  - the backward pass to its bound, at most 2: the bytes that must be moved or the additions to the
    gradient of the values, whichever takes longer at the rates that this GPU reaches;
  - the deterministic backward pass to the usual one, at most 3;
  - the forward pass, and forward and backward together, to the fastest other kernel, at most 1;

* ``not_compared``: which other kernels are absent or do not run, and why;
* ``speeds``: for each model with a target, images a second at 640 pixels and batch size 1 of its
  fastest variant. The targets are meant for a GPU of the class of an H100.

It prints ratios and speeds as tables. Exit status: 1 if a step failed or timed out, a limit is
exceeded or a target is missed. What this machine does not have is not a failure.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIMITS = {
    "forward / bound": 2.0,
    "backward / bound": 2.0,
    "deterministic / usual": 3.0,
    "forward / fastest other": 1.0,
    "training / fastest other": 1.0,
}
TARGETS = {  # images a second
    f"ade20k/mask2former_vit_adapter_{size}_dinov2_512_40k": target
    for size, target in (("small", 115.0), ("base", 100.0), ("large", 70.0))
}
PLAIN = "grid_sample"  # PyTorch's own operation
COMMANDS = ("operator", "models")
REPORT = "report.json"
TAIL = 30  # lines of output

Record = Mapping[str, Any]


def read_steps(folder: Path, skipped: list[str]) -> list[dict[str, Any]]:
    """Read what the commands noted about their steps.

    Args:
        folder: of the results.
        skipped: gets a line for each that cannot be read.
    """
    steps = []
    for command in COMMANDS:
        file = folder / f"steps_{command}.tsv"
        text = file.read_text(errors="replace") if file.is_file() else ""
        for line in text.splitlines():
            name, *rest = line.split("\t", 3)
            if len(rest) != 3 or not rest[1].isdecimal():
                skipped.append(f"{file.name}: {line!r} is not a step")
                continue
            status, seconds, note = rest
            step = {"command": command, "name": name, "status": status}
            step |= {"seconds": int(seconds), "note": note}
            output = folder / f"{name}.txt"
            if status != "passed" and output.is_file():
                step["output"] = output.read_text(errors="replace").splitlines()[-TAIL:]
            steps.append(step)
    return steps


def read_figures(folder: Path, skipped: list[str]) -> dict[str, Any]:
    """Read the JSON files of the steps by their stems.

    Args:
        folder: of the results.
        skipped: gets a line for each file that is not JSON, as of a step that was stopped.
    """
    figures = {}
    for file in sorted(folder.glob("*.json")):
        try:
            if file.name != REPORT:
                figures[file.stem] = json.loads(file.read_text())
        except ValueError as error:
            skipped.append(f"{file.name} is not complete: {error}")
    return figures


def read_kernels(file: Path, skipped: list[str]) -> list[dict[str, str]]:
    """Read the raw page of Nsight Compute in CSV; values are followed by their units.

    Args:
        file: its output.
        skipped: gets a line for each row that is not complete, as when it was stopped.
    """
    if not file.is_file():
        return []
    lines = [line for line in file.read_text(errors="replace").splitlines() if line[:1] == '"']
    if len(lines) < 3:
        return []
    # Each line alone: a quotation mark that is missing must not join it to the next.
    header, units, *rows = (next(csv.reader([line])) for line in lines)
    kernels = []
    for line, row in zip(lines[2:], rows, strict=True):
        if not len(header) == len(units) == len(row) or not line.endswith('"'):
            skipped.append(f"{file.name}: kernel {row[0]} is not complete")
            continue
        values = zip(header, units, row, strict=True)
        kernels.append({name: f"{value} {unit}".strip() for name, unit, value in values if value})
    return kernels


def ratios(records: Mapping[str, Record], reductions: float | None) -> dict[str, float | None]:
    """Return the ratios of one case and dtype; None: not measured.

    Args:
        records: by formulation.
        reductions: bytes per second that the GPU adds up.
    """
    ours = records["ours"]
    forward, training = ours["forward_ms"], ours["training_ms"]
    backward = training - forward
    forward_bound = forward * ours["forward_share_of_bound"]
    moved = training * ours["training_share_of_bound"] - forward_bound
    result: dict[str, float | None] = dict.fromkeys(LIMITS)
    result["forward / bound"] = forward / forward_bound
    if reductions is not None:
        result["backward / bound"] = backward / max(
            moved, 1000 * ours["reduced_bytes"] / reductions
        )
    if fixed_order := records.get("ours, deterministic"):
        result["deterministic / usual"] = (
            fixed_order["training_ms"] - fixed_order["forward_ms"]
        ) / backward
    others = [r for name, r in records.items() if not name.startswith("ours") and name != PLAIN]
    if others:
        for run in ("forward", "training"):
            fastest = min(record[f"{run}_ms"] for record in others)
            result[f"{run} / fastest other"] = ours[f"{run}_ms"] / fastest
    return result


def operator_ratios(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return case, dtype and ratios for everything that was measured of the operator."""
    groups: dict[tuple[str, str], dict[str, Record]] = {}
    for record in figures.get("benchmark_op", {}).get("records", ()):
        if "error" in record:
            continue  # see not_compared
        group = groups.setdefault((record["case"], record["dtype"]), {})
        group[record["formulation"]] = record
    reductions = figures.get("ceilings", {}).get("reductions")
    return [
        {"case": case, "dtype": dtype, **ratios(records, reductions)}
        for (case, dtype), records in groups.items()
    ]


def not_compared(figures: Mapping[str, Any]) -> list[str]:
    """Say which other kernels are absent or do not run, and why."""
    measured = figures.get("benchmark_op", {})
    lines = [f"{name} is absent: {reason}" for name, reason in measured.get("absent", {}).items()]
    for record in measured.get("records", ()):
        if "error" in record:
            case = f"{record['case']} in {record['dtype']}"
            lines.append(f"{record['formulation']} does not run for {case}: {record['error']}")
    return lines


def speeds(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the speed of the fastest variant of each model with a target; None: not measured."""
    records = [
        record
        for content in figures.values()
        for record in content.get("records", ())
        if record.get("size") == [640, 640]
        and (record["batch_size"], record["training"]) == (1, False)
        and "error" not in record
    ]
    rows = []
    for config, target in TARGETS.items():
        own = [record for record in records if record["config"] == config]
        row = {"config": config, "target": target, "images_per_second": None, "variant": None}
        if own:
            fastest = max(own, key=lambda record: record["images_per_second"])
            row["images_per_second"] = fastest["images_per_second"]
            row["variant"] = f"{fastest['precision']}, {fastest['mode']}"
        rows.append(row)
    return rows


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(name: str, ratio: float | None) -> str:
    """Return the text for a ratio in the table."""
    if ratio is None:
        return "not measured"
    return f"{ratio:.2f}" + ("" if ratio <= LIMITS[name] else " (missed)")


def speed_cell(row: Mapping[str, Any]) -> str:
    """Return the text for a speed in the table."""
    speed = row["images_per_second"]
    if speed is None:
        return "not measured"
    return f"{speed:.1f}" + ("" if speed >= row["target"] else " (missed)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file and print the tables; return the exit status."""
    parser = argparse.ArgumentParser(description="Collect the results of gpu_report.sh.")
    parser.add_argument("folder", type=Path, help="of the results")
    folder = parser.parse_args(arguments).folder
    skipped: list[str] = []
    steps, figures = read_steps(folder, skipped), read_figures(folder, skipped)
    kernels = read_kernels(folder / "profile.txt", skipped)
    for step in steps:
        if (step["name"], step["status"]) == ("profile", "passed") and not kernels:
            step |= {"status": "failed", "note": "no kernel was profiled, see profile.txt"}
    rows = operator_ratios(figures)
    report = {"steps": steps, "figures": figures, "kernels": kernels, "skipped": skipped}
    report |= {"ratios": rows, "limits": LIMITS, "not_compared": not_compared(figures)}
    report |= {"speeds": speeds(figures)}
    # Steps that run at the same time all write it.
    temporary = folder / f"{REPORT}.{os.getpid()}"
    temporary.write_text(json.dumps(report, indent=1))
    temporary.replace(folder / REPORT)

    lines = [
        [str(s[key]) for key in ("command", "name", "status", "seconds", "note")] for s in steps
    ]
    print(table(["command", "step", "status", "s", "note"], lines))
    for line in skipped:
        print(f"\nskipped: {line}")
    header = ["case", "dtype", *(f"{name} <= {limit:g}" for name, limit in LIMITS.items())]
    cells = [[row["case"], row["dtype"], *(cell(k, row[k]) for k in LIMITS)] for row in rows]
    print("\n" + table(header, cells))
    for line in report["not_compared"]:
        print(f"\n{line}")
    header = ["model at 640 px", "fastest variant", "images/s", "target"]
    speed_cells = [
        [row["config"], row["variant"] or "", speed_cell(row), f"{row['target']:g}"]
        for row in report["speeds"]
    ]
    print("\n" + table(header, speed_cells))
    print(f"\n{folder / REPORT}")
    failed = any(step["status"] in ("failed", "timed out") for step in steps)
    missed = any(text.endswith("(missed)") for line in cells + speed_cells for text in line)
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
