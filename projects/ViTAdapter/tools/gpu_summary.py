"""Compare the GPU figures of ``benchmark_op.py`` with the operator's limits.

    gpu_summary.py FOLDER/benchmark_op.json

prints a table with the following ratios, for each case of 896 pixels and more in float32 with local
points:

* the forward pass to the bandwidth bound, at most 3;
* the backward pass to the forward pass, at most 3;
* the deterministic backward pass to the usual one, at most 3;
* forward and backward together to the fastest other kernel, at most 1.

Ends with status 1 if a limit is exceeded or a ratio was not measured. A missing kernel of another
project, so that there is nothing to compare with, is not a failure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SMALLEST_SIDE = 896  # pixels; smaller cases do not fill a GPU
LIMITS = {
    "forward / bound": 3.0,
    "backward / forward": 3.0,
    "deterministic / usual": 3.0,
    "ours / fastest other": 1.0,
}
PLAIN = ("grid_sample", "embedding_bag")  # PyTorch's own operations

Record = Mapping[str, Any]


def ratios(records: Mapping[str, Record]) -> dict[str, float | None]:
    """Return the ratios for the records of one case by formulation; None: not measured."""
    ours = records["ours"]
    backward = ours["training_ms"] - ours["forward_ms"]
    fixed_order = records.get("ours, deterministic")
    others = [
        record["training_ms"]
        for name, record in records.items()
        if not name.startswith("ours") and name not in PLAIN
    ]
    return {
        "forward / bound": 1 / ours["forward_share_of_bound"],
        "backward / forward": backward / ours["forward_ms"],
        "deterministic / usual": None
        if fixed_order is None
        else (fixed_order["training_ms"] - fixed_order["forward_ms"]) / backward,
        "ours / fastest other": ours["training_ms"] / min(others) if others else None,
    }


def group_by_case(records: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """Return case -> formulation -> record, for the cases that count."""
    cases: dict[str, dict[str, Record]] = {}
    for record in records:
        large = int(record["case"].split()[1]) >= SMALLEST_SIDE
        if large and (record["dtype"], record["points"]) == ("float32", "local"):
            cases.setdefault(record["case"], {})[record["formulation"]] = record
    return cases


def cell(name: str, ratio: float | None) -> tuple[str, bool]:
    """Return the text for a ratio in the table, and whether it is within its limit."""
    if ratio is None:
        return "not measured", name == "ours / fastest other"
    reached = ratio <= LIMITS[name]
    return f"{ratio:.2f}" + ("" if reached else " (missed)"), reached


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description="Compare a GPU's figures with their limits.")
    parser.add_argument("file", type=Path, help="benchmark_op.json")
    content = json.loads(parser.parse_args(arguments).file.read_text())
    print(f"{content['machine']}; float32, local points\n")
    print("| case | " + " | ".join(f"{name} <= {limit:g}" for name, limit in LIMITS.items()) + " |")
    print("|---" * (1 + len(LIMITS)) + "|")
    cases = group_by_case(content["records"])
    all_reached = bool(cases)
    for case, records in cases.items():
        cells = [cell(name, ratio) for name, ratio in ratios(records).items()]
        print("| " + " | ".join([case, *(text for text, _ in cells)]) + " |")
        all_reached = all_reached and all(reached for _, reached in cells)
    return 0 if all_reached else 1


if __name__ == "__main__":
    sys.exit(main())
