"""Calls of multi-scale deformable attention as models make them, and their measurement.

The cases are of batch size 1: injectors (queries at stride 16, values at strides 8, 16, 32) and
extractors (the reverse) of ViT-Adapter, and a layer of Mask2Former's pixel decoder.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vit_adapter.benchmark.failure import describe_failure
from vit_adapter.benchmark.formulations import Formulation, cast_points
from vit_adapter.benchmark.memory import MEBIBYTE, peak_memory
from vit_adapter.benchmark.timing import Call, in_turns, medians
from vit_adapter.ops import ms_deform_attn_reference

__all__ = ["CASES", "NUM_CPU_CASES", "Case", "Inputs", "make_inputs", "measure"]

NUM_POINTS = 4
_MORE_THAN_CACHES = 256 * MEBIBYTE  # as of the copy that the bound is measured with
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
    "S 640 injector": Case(640, 6, 64, (16,), PYRAMID),
    "S 640 extractor": Case(640, 6, 64, PYRAMID, (16,)),
    "Mask2Former 640": Case(640, 8, 32, PYRAMID, PYRAMID),
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

    def to(self, device: torch.device, dtype: torch.dtype) -> "Inputs":
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


def reduced_bytes(inputs: Inputs) -> int:
    """Return the bytes that are added up to the gradient of the values, four pixels a point."""
    value, _, _, weights = inputs
    wide = torch.promote_types(value.dtype, torch.float32)
    return 4 * weights.numel() * value.shape[-1] * wide.itemsize


def copies(inputs: Inputs, size: int) -> list[Inputs]:
    """Return the inputs and copies of them, so that one call with each moves ``size`` bytes."""
    count = max(1, -(-size // minimal_bytes(inputs)[0]))
    value, shapes, locations, weights = inputs
    return [inputs] + [
        Inputs(value.clone(), shapes, locations.clone(), weights.clone()) for _ in range(count - 1)
    ]


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
    grad_output = torch.randn(1, locations.shape[1], value[0, 0].numel(), device=value.device)
    grad_output = grad_output.to(value.dtype)

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


def refusal(name: str, function: Formulation, inputs: Inputs) -> str | None:
    """Say why a formulation does not run; other projects' kernels refuse many inputs."""
    try:
        forward_call(function, inputs)()
        training_call(function, inputs)()
    except Exception as error:  # of many types, such as those of Triton's compiler
        if name in ("ours", "grid_sample", "embedding_bag"):
            raise
        reason = describe_failure(error)
        print(f"{name} does not run: {reason}", flush=True)
        return reason
    return None


def _own_inputs(name: str, inputs: Inputs) -> Inputs:
    value, shapes, locations, weights = inputs
    return Inputs(value, shapes, *cast_points(name, locations, weights, value.dtype))


def measure(
    inputs: Inputs, formulations: Mapping[str, Formulation], repeats: int, bandwidth: float
) -> Iterator[dict[str, object]]:
    """Yield one record per formulation; of one that does not run, with only ``error``.

    Args:
        inputs: of the call.
        formulations: by name, with "grid_sample".
        repeats: how often each runs.
        bandwidth: bytes per second of a copy.
    """
    device = inputs.value.device
    # A GPU's cache holds the inputs of most cases, which would beat the bandwidth of its memory.
    sets = copies(inputs, _MORE_THAN_CACHES if device.type == "cuda" else 0)
    own = {name: [_own_inputs(name, one) for one in sets] for name in formulations}
    refusals = {name: refusal(name, f, own[name][0]) for name, f in formulations.items()}
    functions = {name: f for name, f in formulations.items() if refusals[name] is None}

    def times(make_call: Callable[[Formulation, Inputs], Call]) -> dict[str, float]:
        calls = {n: in_turns([make_call(f, one) for one in own[n]]) for n, f in functions.items()}
        return medians(calls, repeats, device)

    forward, training = times(forward_call), times(training_call)
    bounds = [1000 * size / bandwidth for size in minimal_bytes(inputs)]  # ms
    exact = training_call(ms_deform_attn_reference, inputs.to(device, torch.float64))()
    for name, function in functions.items():
        error_output, error_gradients = errors(function, own[name][0], exact)
        yield {
            "formulation": name,
            "forward_ms": forward[name],
            "training_ms": training[name],
            "forward_gain": forward["grid_sample"] / forward[name],
            "training_gain": training["grid_sample"] / training[name],
            "forward_share_of_bound": bounds[0] / forward[name],
            "training_share_of_bound": bounds[1] / training[name],
            "reduced_bytes": reduced_bytes(inputs),
            "error_output": error_output,
            "error_gradients": error_gradients,
            "peak_mib": peak_memory(training_call(function, own[name][0]), device) / MEBIBYTE,
        }
    for name, reason in refusals.items():
        if reason is not None:
            yield {"formulation": name, "error": reason}
