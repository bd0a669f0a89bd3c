"""Check multi-scale deformable attention on this machine with sizes that are awkward for kernels.

    check_op.py [--device cuda] [--dtypes float32 bfloat16 float16 float64]

Runs forward and backward pass, and the deterministic backward pass, and compares output and
gradients with the definition in float64. It is small enough for NVIDIA's sanitizers: inputs are
made and results compared on the CPU, so that the device runs little besides the operator:

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1 \\
        python3 check_op.py --device cuda

Exit status: 0, or 1 if a result is wrong or the device has no kernels.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vit_adapter.ops import ms_deform_attn, ms_deform_attn_reference
from vit_adapter.ops.extension import has_kernel

# Largest error, as |difference| / |float64| in the Euclidean norm.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}
BAD_COORDINATES = (float("nan"), float("inf"), -1e30, 3.0)
NAMES = ("output", "gradient of value", "gradient of locations", "gradient of weights")


class Case(NamedTuple):
    """Sizes of one call; ``offset`` moves the values away from an aligned address."""

    batch: int
    queries: int
    heads: int
    dim: int
    points: int
    shapes: tuple[tuple[int, int], ...]
    offset: int = 0


ODD_MAPS = ((7, 5), (1, 1), (3, 9))
CASES = (
    Case(2, 33, 6, 64, 4, ((9, 11),)),  # as extractors of size S
    Case(1, 40, 8, 32, 4, ((16, 12), (8, 6), (4, 3))),  # as Mask2Former
    Case(1, 13, 3, 16, 3, ODD_MAPS),
    Case(2, 7, 5, 24, 5, ODD_MAPS),  # the lanes of a head are not a power of two
    Case(1, 9, 2, 20, 1, ODD_MAPS),  # 8 or 4 bytes at a time in 16 bits
    Case(1, 5, 3, 1, 4, ODD_MAPS),
    Case(3, 1, 1, 33, 2, ODD_MAPS),  # 2 bytes at a time
    Case(1, 17, 2, 256, 4, ((5, 5), (2, 2))),  # several vectors per lane
    Case(1, 11, 4, 32, 4, ODD_MAPS, offset=1),
    Case(1, 3, 2, 8, 2, ((4, 4),) * 32),  # as many levels as CUDA allows
    Case(0, 4, 2, 32, 4, ODD_MAPS),
)


class Call(NamedTuple):
    """Arguments of a call, and the gradient of its output."""

    value: Tensor
    locations: Tensor
    weights: Tensor
    grad_output: Tensor


def make_call(case: Case, dtype: torch.dtype) -> Call:
    """Draw the arguments on the CPU: some points are outside the map, infinite or NaN."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)
    rows = (case.batch, case.queries, case.heads, len(case.shapes), case.points)
    sides = torch.tensor([[width, height] for height, width in case.shapes])[:, None]
    pixels = torch.rand(*rows, 2, generator=generator) * (sides + 2) - 1.5
    # At a pixel's centre the gradient of a location jumps; rounding may not cross it.
    pixels = pixels.floor() + (pixels - pixels.floor()).clamp(0.05, 0.95)
    locations = (pixels + 0.5) / sides
    bad = torch.rand(locations.shape, generator=generator) < 0.05
    choice = torch.randint(len(BAD_COORDINATES), locations.shape, generator=generator)
    locations[bad] = torch.tensor(BAD_COORDINATES)[choice][bad]
    tokens = sum(height * width for height, width in case.shapes)
    return Call(
        torch.randn(case.batch, tokens, case.heads, case.dim, generator=generator).to(dtype),
        locations.to(wide),
        torch.randn(*rows, generator=generator).to(wide),
        torch.randn(case.batch, case.queries, case.heads * case.dim, generator=generator).to(dtype),
    )


def compute(
    function: Callable[..., Tensor], case: Case, call: Call, device: str
) -> tuple[Tensor, ...]:
    """Return the output and the three gradients in float64 on the CPU."""
    storage = torch.empty(call.value.numel() + case.offset, dtype=call.value.dtype, device=device)
    value = storage[case.offset :].view(call.value.shape).copy_(call.value)
    leaves = [value, call.locations.to(device), call.weights.to(device)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    output = function(leaves[0], case.shapes, leaves[1], leaves[2])
    gradients = torch.autograd.grad(output, leaves, call.grad_output.to(device))
    return tuple(tensor.detach().cpu().double() for tensor in (output, *gradients))


def find_errors(case: Case, dtype_name: str, device: str) -> list[str]:
    """Compare one case in one dtype, with and without deterministic algorithms."""
    call = make_call(case, getattr(torch, dtype_name))
    exact = compute(
        ms_deform_attn_reference, case, Call(*(tensor.double() for tensor in call)), "cpu"
    )
    problems = []
    # Otherwise PyTorch would fill new memory, and initcheck would not see that it is read.
    torch.utils.deterministic.fill_uninitialized_memory = False
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        try:
            results = compute(ms_deform_attn, case, call, device)
        finally:
            torch.use_deterministic_algorithms(False)
        for name, result, truth in zip(NAMES, results, exact, strict=True):
            error = float((result - truth).norm() / truth.norm().clamp(min=1e-30))
            if not error <= TOLERANCES[dtype_name]:
                kind = "deterministic" if deterministic else "usual"
                problems.append(f"{case}, {dtype_name}, {kind}: {name} is off by {error:.1e}")
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Check all cases; return the exit status."""
    parser = argparse.ArgumentParser(description="Check multi-scale deformable attention.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", nargs="+", choices=list(TOLERANCES), default=list(TOLERANCES))
    options = parser.parse_args(arguments)
    if not has_kernel(torch.device(options.device).type):
        print(f"check_op: there is no kernel for {options.device}; see extension_info()")
        return 1
    settings = list(itertools.product(CASES, options.dtypes))
    problems = [line for setting in settings for line in find_errors(*setting, options.device)]
    print("\n".join([*problems, f"{len(settings)} settings, {len(problems)} wrong results"]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
