"""Inputs and oracles shared by the tests of multi-scale deformable attention.

Shapes: B batch, S value tokens, M heads, D channels per head, Q queries, L levels, P points.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from vit_adapter.ops.extension import has_kernel

# AddressSanitizer and UBSan. -no-pie: a program at a random address can collide with the heap of
# AddressSanitizer in GCC before 13.3.
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-no-pie"]


class Inputs(NamedTuple):
    """The arguments of one call."""

    value: Tensor
    spatial_shapes: list[tuple[int, int]]
    sampling_locations: Tensor
    attention_weights: Tensor

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Inputs:
        """Cast values to a dtype, and the rest to the dtype that goes with it."""
        wide = torch.promote_types(dtype, torch.float32)
        return Inputs(
            self.value.to(device, dtype),
            self.spatial_shapes,
            self.sampling_locations.to(device, wide),
            self.attention_weights.to(device, wide),
        )


def sample_inputs(
    *,
    batch: int = 2,
    queries: int = 7,
    heads: int = 3,
    dim: int = 8,
    points: int = 4,
    shapes: tuple[tuple[int, int], ...] = ((6, 5), (3, 2)),
    low: float = -0.3,
    high: float = 1.3,
) -> Inputs:
    """Draw float64 inputs; locations are uniform in [low, high], but never close to a pixel's edge.

    At integer pixel coordinates the gradient of the locations jumps: points keep 0.01 pixels away.
    """
    tokens = sum(height * width for height, width in shapes)
    sizes = torch.tensor([[w, h] for h, w in shapes], dtype=torch.float64)[:, None]  # (L, 1, 2)
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2, dtype=torch.float64)
    pixels = (low + (high - low) * locations) * sizes - 0.5
    pixels = pixels.floor() + (pixels - pixels.floor()).clamp(0.01, 0.99)
    weights = torch.randn(batch, queries, heads, len(shapes) * points, dtype=torch.float64)
    return Inputs(
        torch.randn(batch, tokens, heads, dim, dtype=torch.float64),
        list(shapes),
        (pixels + 0.5) / sizes,
        weights.softmax(-1).unflatten(-1, (len(shapes), points)),
    )


def loop_oracle(
    value: Tensor,
    spatial_shapes: list[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Evaluate the paper's sum point by point: every pixel weighs max(0, 1 - |distance|) per axis.

    Written from the definition of bilinear interpolation and not from corners, so that it shares no
    idea with the implementations, and differentiable by autograd.
    """
    batch, _, heads, _ = value.shape
    queries = sampling_locations.shape[1]
    maps = value.split([height * width for height, width in spatial_shapes], dim=1)
    rows = []
    for b in range(batch):
        for q in range(queries):
            for m in range(heads):
                total = value[b, 0, m] * 0
                for level, (height, width) in enumerate(spatial_shapes):
                    image = maps[level][b, :, m].view(height, width, -1)
                    for p in range(sampling_locations.shape[4]):
                        x, y = sampling_locations[b, q, m, level, p]
                        across = (1 - (x * width - 0.5 - torch.arange(width)).abs()).clamp(min=0)
                        down = (1 - (y * height - 0.5 - torch.arange(height)).abs()).clamp(min=0)
                        sampled = torch.einsum("hwd,h,w->d", image, down, across)
                        total = total + attention_weights[b, q, m, level, p] * sampled
                rows.append(total)
    return torch.stack(rows).view(batch, queries, -1)


def output_and_gradients(
    function: Callable[..., Tensor], inputs: Inputs, grad_output: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the output and the gradients of value, locations and weights, all in float64."""
    value, shapes, locations, weights = inputs
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (value, locations, weights)]
    output = function(leaves[0], shapes, leaves[1], leaves[2])
    gradients = torch.autograd.grad(output, leaves, grad_output.to(output))
    return tuple(tensor.detach().double().cpu() for tensor in (output, *gradients))


@pytest.fixture(name="sample_inputs")
def _sample_inputs() -> Callable[..., Inputs]:
    return sample_inputs


@pytest.fixture(name="loop_oracle")
def _loop_oracle() -> Callable[..., Tensor]:
    return loop_oracle


@pytest.fixture(name="output_and_gradients")
def _output_and_gradients() -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    return output_and_gradients


@pytest.fixture(scope="session")
def sanitizing_compiler(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a C++ compiler with sanitizers, checked by running a program.

    Some systems lack the sanitizers' libraries or forbid what they need (ptrace, overcommitting).
    """
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("sanitizers")
    (folder / "empty.cpp").write_text("int main() { return 0; }\n")
    command = [compiler, *SANITIZERS]
    for step in ([*command, folder / "empty.cpp", "-o", folder / "empty"], [folder / "empty"]):
        try:
            subprocess.run(step, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"needs a C++ compiler whose sanitizers work here: {error}")
    return command


@pytest.fixture
def kernel_device(device: torch.device) -> torch.device:
    """Each device for which a kernel is built; plain PyTorch is tested elsewhere."""
    if not has_kernel(device.type):
        pytest.skip(f"the extension has no {device.type} kernel here")
    return device
