"""Time multi-scale deformable attention and all other implementations that can be imported.

    benchmark_op.py [--device cuda] [--dtypes float32 bfloat16] [--points local] [--threads 2]

The cases are calls that real models make at batch size 1: injectors (queries at stride 16, values
at strides 8, 16, 32) and extractors (the reverse) of ViT-Adapter, and a layer of Mask2Former's
pixel decoder. Without options every dtype and both kinds of points are measured. The output folder
gets ``benchmark_op.md``, tables with

* the medians of forward and of forward with backward, and the gains over `grid_sample`;
* the share of the bandwidth bound: the time that a copy needs for the bytes that must be read and
  written once, relative to the measured time (more than 100 % if a cache holds them);
* errors against float64, as |difference| / |float64| in the Euclidean norm, of the output and of
  the worst of the three gradients, where float64 gets the same rounded inputs;
* the memory that one forward and backward pass needs in addition to its inputs;
* the time of a call on the CPU that computes almost nothing;

``benchmark_op.png``, a chart of the times, and ``benchmark_op.json``, all figures as numbers.
"""

import argparse
import json
from pathlib import Path

import torch

from vit_adapter.benchmark.machine import describe_machine
from vit_adapter.benchmark.op import CASES, NUM_CPU_CASES, make_inputs, measure
from vit_adapter.benchmark.op_report import to_markdown, to_picture
from vit_adapter.benchmark.overhead import measure_overhead
from vit_adapter.benchmark.timing import copy_bandwidth


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
    print(machine, flush=True)
    overhead = measure_overhead()
    records = []
    for dtype in options.dtypes:
        for points in options.points:
            for case in options.cases:
                torch.manual_seed(0)
                inputs = make_inputs(CASES[case], points).to(device, getattr(torch, dtype))
                setting = {"dtype": dtype, "points": points, "case": case}
                for record in measure(inputs, options.repeats, bandwidth):
                    records.append({**setting, **record})
                print(f"{dtype}, {points} points, {case}: done", flush=True)

    options.output.mkdir(parents=True, exist_ok=True)
    table = to_markdown(machine, overhead, records)
    (options.output / "benchmark_op.md").write_text(table)
    content = {"machine": machine, "overhead_us": overhead, "records": records}
    (options.output / "benchmark_op.json").write_text(json.dumps(content, indent=1))
    to_picture(machine, records, options.output / "benchmark_op.png")
    print(table)


if __name__ == "__main__":
    main()
