"""Time multi-scale deformable attention against its plain-PyTorch formulations.

    benchmark_op.py [--device cuda] [--dtype bfloat16] [--threads 2] [--points uniform]

The cases are calls that real models make at batch 1: injectors (queries at stride 16, values at
strides 8, 16, 32) and extractors (the reverse) of ViT-Adapter-S at 512 x 512 and -B at 896 x 896,
and a layer of Mask2Former's pixel decoder at 512 x 512. Formulations take turns within each
repetition, so that a disturbance of the machine meets them all; the medians are printed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vit_adapter.ops import extension_info, ms_deform_attn, ms_deform_attn_reference
from vit_adapter.ops.reference import ms_deform_attn_embedding_bag

NUM_POINTS = 4
OFFSET_NOISE = 2.0  # pixels: how far learned offsets stray from those of the initialisation


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
}
FORMULATIONS = {
    "ours": ms_deform_attn,
    "grid_sample": ms_deform_attn_reference,
    "embedding_bag": ms_deform_attn_embedding_bag,
}


class Inputs(NamedTuple):
    """The arguments of a call."""

    value: Tensor
    spatial_shapes: list[tuple[int, int]]
    sampling_locations: Tensor
    attention_weights: Tensor


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


def milliseconds(function: Callable[[], object], device: torch.device) -> float:
    """Time one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - start)


def medians(
    functions: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Return the median time in milliseconds of each function, called in turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repetition in range(repeats + 1):
        for name, function in functions.items():
            elapsed = milliseconds(function, device)
            if repetition > 0:  # the first one warms up
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def run_case(
    inputs: Inputs, repeats: int, device: torch.device
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the medians of forward, and of forward with backward, by formulation."""
    value, shapes, locations, weights = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    grad_output = torch.randn_like(ms_deform_attn(*inputs))

    def forward(function: Callable[..., Tensor]) -> Callable[[], object]:
        def call() -> None:
            with torch.no_grad():
                function(value, shapes, locations, weights)

        return call

    def train(function: Callable[..., Tensor]) -> Callable[[], object]:
        def call() -> None:
            output = function(leaves[0], shapes, leaves[1], leaves[2])
            torch.autograd.grad(output, leaves, grad_output)

        return call

    return (
        medians({name: forward(f) for name, f in FORMULATIONS.items()}, repeats, device),
        medians({name: train(f) for name, f in FORMULATIONS.items()}, repeats, device),
    )


def describe_machine(device: torch.device) -> str:
    """Name what the figures belong to."""
    info = extension_info()
    backend = info["backends"].get(device.type, "reference")
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, ours: {backend}"
    names = [platform.processor() or platform.machine()]
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names += [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        pass  # not Linux: the architecture must do
    return (
        f"{names[-1]}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"ours: {backend} {info['cpu_instruction_set']}".rstrip()
    )


def main(arguments: list[str] | None = None) -> None:
    """Print one table row per case."""
    parser = argparse.ArgumentParser(description="Time multi-scale deformable attention.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the values (default: float32)")
    parser.add_argument("--points", default="local", choices=("local", "uniform"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)

    print(f"{describe_machine(device)}; {options.dtype}, {options.points} points; medians in ms")
    names = list(FORMULATIONS)
    header = [f"{what} {name}" for what in ("fwd", "fwd+bwd") for name in names]
    print("| case | " + " | ".join(header) + " | gain over grid_sample, fwd / fwd+bwd |")
    print("|---" * (len(header) + 2) + "|")
    for name in options.cases:
        inputs = make_inputs(CASES[name], options.points)
        wide = torch.promote_types(dtype, torch.float32)
        inputs = Inputs(
            inputs.value.to(device, dtype),
            inputs.spatial_shapes,
            inputs.sampling_locations.to(device, wide),
            inputs.attention_weights.to(device, wide),
        )
        results = run_case(inputs, options.repeats, device)
        cells = [f"{times[key]:.2f}" for times in results for key in names]
        gains = " / ".join(f"{times['grid_sample'] / times['ours']:.1f}x" for times in results)
        print(f"| {name} | " + " | ".join(cells) + f" | {gains} |", flush=True)


if __name__ == "__main__":
    main()
