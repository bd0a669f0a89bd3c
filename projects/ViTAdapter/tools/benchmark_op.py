"""Time multi-scale deformable attention and all other implementations that can be imported.

    benchmark_op.py [--device cuda] [--dtypes float32 bfloat16] [--points local] [--threads 2]

The cases are calls that real models make at batch size 1: injectors (queries at stride 16, values
at strides 8, 16, 32) and extractors (the reverse) of ViT-Adapter, and a layer of Mask2Former's
pixel decoder. Without options every dtype and both kinds of points are measured. The output folder
gets ``benchmark_op.md``, tables with

* the medians of forward and of forward with backward, and the gains over `grid_sample`;
* the share of the bandwidth bound: the time that a copy needs for the bytes that must be read and
  written once, relative to the measured time (more than 100 % if the cache of a CPU holds them);
* errors against float64, as |difference| / |float64| in the Euclidean norm, of the output and of
  the worst of the three gradients, where float64 gets the same rounded inputs;
* the memory that one forward and backward pass needs in addition to its inputs;
* the time of a call on the CPU that computes almost nothing;

``benchmark_op.png``, a chart of the times, and ``benchmark_op.json``, all figures as numbers, and
why other implementations are absent. Tables and numbers are written after each case.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vit_adapter.benchmark.formulations import find_formulations
from vit_adapter.benchmark.machine import describe_machine
from vit_adapter.benchmark.op import CASES, NUM_CPU_CASES, make_inputs, measure
from vit_adapter.benchmark.op_report import to_markdown, to_picture
from vit_adapter.benchmark.overhead import measure_overhead
from vit_adapter.benchmark.timing import copy_bandwidth, medians
from vit_adapter.utils.atomic import atomic_open


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time multi-scale deformable attention.")
    parser.add_argument("--device", default="cpu")
    dtypes = ["float32", "bfloat16", "float16", "float64"]
    parser.add_argument("--dtypes", nargs="+", default=dtypes, help="of the values (default: all)")
    parser.add_argument("--points", nargs="+", default=["local", "uniform"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cases", nargs="+", choices=list(CASES))
    parser.add_argument("--output", type=Path, default=Path("output/benchmark_op"))
    options = parser.parse_args(arguments)
    if options.cases is None:
        options.cases = list(CASES)[: NUM_CPU_CASES if options.device == "cpu" else None]
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the tables and the chart."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    bandwidth = copy_bandwidth(device)
    machine = f"{describe_machine(device)}; a copy moves {bandwidth / 1e9:.0f} GB/s"
    if device.type == "cuda":
        one = torch.zeros(1, device=device)
        least = medians({"add": lambda: one.add_(1)}, 7, device)["add"]
        machine += f"; the smallest kernel takes {1000 * least:.1f} us"
    print(machine, flush=True)
    overhead = measure_overhead()
    formulations, absent = find_formulations(device)
    options.output.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "overhead_us": overhead, "absent": absent, "records": []}
    for dtype in options.dtypes:
        for points in options.points:
            for case in options.cases:
                torch.manual_seed(0)
                inputs = make_inputs(CASES[case], points).to(device, getattr(torch, dtype))
                setting = {"dtype": dtype, "points": points, "case": case}
                for record in measure(inputs, formulations, options.repeats, bandwidth):
                    content["records"].append({**setting, **record})
                write(options.output, content)
                print(f"{dtype}, {points} points, {case}: done", flush=True)

    to_picture(machine, content["records"], options.output / "benchmark_op.png")
    print((options.output / "benchmark_op.md").read_text())


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the tables and the numbers of what is measured so far."""
    parts = (content[key] for key in ("machine", "overhead_us", "absent", "records"))
    table = to_markdown(*parts)
    for name, text in (("md", table), ("json", json.dumps(content, indent=1))):
        with atomic_open(folder / f"benchmark_op.{name}") as stream:
            stream.write(text)


if __name__ == "__main__":
    main()
