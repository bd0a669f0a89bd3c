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

``benchmark_op.png``, a chart of the times, and ``benchmark_op.json``, all figures as numbers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from benchmark_formulations import Formulation, available_formulations
from benchmark_report import to_markdown, to_picture
from benchmark_timing import MEBIBYTE, copy_bandwidth, describe_machine, medians, peak_memory
from torch import Tensor

from vit_adapter.ops import ms_deform_attn_reference

NUM_POINTS = 4
OFFSET_NOISE = 2.0  # pixels: how far learned offsets move from the initial ones


class Case(NamedTuple):
    """One call: image side in pixels, heads, channels per head, strides of queries and values."""

    side: int
    heads: int
    dim: int
    query_strides: tuple[int, ...]
    value_strides: tuple[int, ...]


PYRAMID = (8, 16, 32)
CASES = {
    "S 512 injector": Case(512, 6, 64, (16,), PYRAMID),
    "S 512 extractor": Case(512, 6, 64, PYRAMID, (16,)),
    "B 896 injector": Case(896, 12, 32, (16,), PYRAMID),
    "B 896 extractor": Case(896, 12, 32, PYRAMID, (16,)),
    "Mask2Former 512": Case(512, 8, 32, PYRAMID, PYRAMID),
    "S 896 injector": Case(896, 6, 64, (16,), PYRAMID),
    "S 896 extractor": Case(896, 6, 64, PYRAMID, (16,)),
    "L 1024 injector": Case(1024, 16, 32, (16,), PYRAMID),
    "L 1024 extractor": Case(1024, 16, 32, PYRAMID, (16,)),
    "Mask2Former 1024": Case(1024, 8, 32, PYRAMID, PYRAMID),
}
NUM_CPU_CASES = 5  # larger cases show nothing new on a CPU


class Inputs(NamedTuple):
    """The arguments of a call."""

    value: Tensor
    spatial_shapes: list[tuple[int, int]]
    sampling_locations: Tensor
    attention_weights: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Inputs:
        """Cast the values to a dtype, and everything else to the dtype that goes with it."""
        wide = torch.promote_types(dtype, torch.float32)
        return Inputs(
            self.value.to(device, dtype),
            self.spatial_shapes,
            self.sampling_locations.to(device, wide),
            self.attention_weights.to(device, wide),
        )


def make_inputs(case: Case, points: str) -> Inputs:
    """Draw float32 inputs of batch 1.

    Points are "local" (around the query's own position: the ring of offsets that the original
    starts from, plus noise) or "uniform" over the map, which is harder on the caches.
    """
    shapes = [(case.side // stride, case.side // stride) for stride in case.value_strides]
    grids = [(torch.arange(case.side // stride) + 0.5) * stride for stride in case.query_strides]
    centres = torch.cat([torch.cartesian_prod(grid, grid).flip(-1) for grid in grids]) / case.side
    queries, levels = len(centres), len(shapes)
    angles = torch.arange(case.heads) * (2 * torch.pi / case.heads)
    ring = torch.stack((angles.cos(), angles.sin()), dim=-1)
    ring = ring / ring.abs().amax(-1, keepdim=True)
    radius = torch.arange(1, NUM_POINTS + 1).view(-1, 1)
    offsets = ring.view(-1, 1, 1, 2) * radius  # (M, 1, P, 2) in pixels of each level
    noise = OFFSET_NOISE * torch.randn(queries, case.heads, levels, NUM_POINTS, 2)
    sizes = torch.tensor([[width, height] for height, width in shapes]).view(-1, 1, 2)
    locations = centres.view(-1, 1, 1, 1, 2) + (offsets + noise) / sizes
    if points == "uniform":
        locations = torch.rand_like(locations)
    weights = torch.randn(1, queries, case.heads, levels * NUM_POINTS).softmax(-1)
    return Inputs(
        torch.randn(1, sum(height * width for height, width in shapes), case.heads, case.dim),
        shapes,
        locations.unsqueeze(0),
        weights.unflatten(-1, (levels, NUM_POINTS)),
    )


def minimal_bytes(inputs: Inputs) -> tuple[int, int]:
    """Return the least bytes that forward, and forward with backward, read and write."""
    value, _, locations, weights = inputs
    output = locations.shape[1] * value[0, 0].nbytes
    read = value.nbytes + locations.nbytes + weights.nbytes
    return read + output, 3 * read + 2 * output


def forward_call(function: Formulation, inputs: Inputs) -> Callable[[], Tensor]:
    """Return a call that computes the output."""

    def call() -> Tensor:
        with torch.no_grad():
            return function(*inputs)

    return call


def training_call(function: Formulation, inputs: Inputs) -> Callable[[], tuple[Tensor, ...]]:
    """Return a call that computes the output and the three gradients."""
    value, shapes, locations, weights = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    torch.manual_seed(1)
    grad_output = torch.randn(1, locations.shape[1], value[0, 0].numel()).to(value)

    def call() -> tuple[Tensor, ...]:
        output = function(leaves[0], shapes, leaves[1], leaves[2])
        return (output.detach(), *torch.autograd.grad(output, leaves, grad_output))

    return call


def errors(function: Formulation, inputs: Inputs, exact: tuple[Tensor, ...]) -> tuple[float, float]:
    """Return the relative errors of the output and of the worst gradient, in the Euclidean norm."""
    actual = training_call(function, inputs)()
    output, *gradients = (
        float((tensor.double() - truth).norm() / truth.norm())
        for tensor, truth in zip(actual, exact, strict=True)
    )
    return output, max(gradients)


def runs(name: str, function: Formulation, inputs: Inputs) -> bool:
    """Whether a formulation supports these inputs; other projects' kernels refuse many."""
    try:
        training_call(function, inputs)()
    except (RuntimeError, ValueError, TypeError) as error:
        if name in ("ours", "grid_sample", "embedding_bag"):
            raise
        print(f"{name} does not run: {str(error).splitlines()[0]}", flush=True)
        return False
    return True


def measure(inputs: Inputs, repeats: int, bandwidth: float) -> Iterator[dict[str, object]]:
    """Yield one record per formulation."""
    device = inputs.value.device
    found = available_formulations(device)
    functions = {name: f for name, f in found.items() if runs(name, f, inputs)}
    forward = medians({n: forward_call(f, inputs) for n, f in functions.items()}, repeats, device)
    training = medians({n: training_call(f, inputs) for n, f in functions.items()}, repeats, device)
    bounds = [1000 * size / bandwidth for size in minimal_bytes(inputs)]  # ms
    exact = training_call(ms_deform_attn_reference, inputs.to(device, torch.float64))()
    for name, function in functions.items():
        error_output, error_gradients = errors(function, inputs, exact)
        yield {
            "formulation": name,
            "forward_ms": forward[name],
            "training_ms": training[name],
            "forward_gain": forward["grid_sample"] / forward[name],
            "training_gain": training["grid_sample"] / training[name],
            "forward_share_of_bound": bounds[0] / forward[name],
            "training_share_of_bound": bounds[1] / training[name],
            "error_output": error_output,
            "error_gradients": error_gradients,
            "peak_mib": peak_memory(training_call(function, inputs), device) / MEBIBYTE,
        }


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
    table = to_markdown(machine, records)
    (options.output / "benchmark_op.md").write_text(table)
    content = {"machine": machine, "records": records}
    (options.output / "benchmark_op.json").write_text(json.dumps(content, indent=1))
    to_picture(machine, records, options.output / "benchmark_op.png")
    print(table)


if __name__ == "__main__":
    main()
