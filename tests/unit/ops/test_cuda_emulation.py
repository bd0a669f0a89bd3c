"""The unmodified device code, run on the host under AddressSanitizer and UBSan.

`cuda_emulation/cuda_emulation.h` replaces the CUDA primitives that the kernels use. This shows that
arithmetic, indices and collectives are correct; it cannot show races or speed.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from vit_adapter.ops import ms_deform_attn_reference

SOURCES = Path(__file__).parent / "cuda_emulation"
TYPES = {
    "double": torch.float64,
    "float": torch.float32,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
}
TOLERANCES = {"double": 1e-12, "float": 2e-5, "half": 4e-3, "bfloat16": 3e-2}
CASES = {
    "dim 32": {"queries": 5, "dim": 32, "shapes": ((6, 5), (3, 2))},
    "dim 64, outside": {"batch": 1, "queries": 3, "heads": 2, "dim": 64, "low": -2.0, "high": 3.0},
    "dim 256": {"batch": 1, "queries": 2, "heads": 1, "dim": 256, "points": 1},
    # More packs of channels than a warp has lanes, and not a multiple of them.
    "dim 264": {"batch": 1, "queries": 2, "heads": 1, "dim": 264, "points": 1},
    "dim 20": {"batch": 3, "queries": 3, "heads": 2, "dim": 20, "shapes": ((1, 1), (4, 1), (1, 3))},
    "dim 7": {"batch": 3, "queries": 7, "heads": 1, "dim": 7, "points": 3},
}


@pytest.fixture(scope="module")
def emulator(tmp_path_factory, project_root, sanitizing_compiler) -> Path:
    """The compiled host program."""
    program = tmp_path_factory.mktemp("emulation") / "emulation"
    includes = [f"-I{SOURCES}", f"-I{project_root / 'csrc'}"]
    quiet = ["-w"]  # host compilers warn about the device code's pragmas
    command = [*sanitizing_compiler, "-std=c++17", "-O0", *quiet, *includes]
    subprocess.run([*command, SOURCES / "main.cpp", "-o", program], check=True)
    return program


def emulate(emulator: Path, folder: Path, name: str, channels: int, inputs, grad_output) -> dict:
    """Run the kernels; returns float64 arrays by the names that main.cpp gives."""
    value, shapes, locations, weights = inputs
    arrays = {
        "value": value,
        "grad_output": grad_output,
        "locations": locations,
        "weights": weights,
    }
    for key, tensor in arrays.items():
        raw = tensor.contiguous().view(torch.uint8 if tensor.numel() else tensor.dtype)
        (folder / key).write_bytes(raw.numpy().tobytes())
    batch, tokens, heads, dim = value.shape
    _, queries, _, levels, points = weights.shape
    sizes = [batch, tokens, heads, dim, queries, levels, points]
    sides = [side for shape in shapes for side in shape]
    command = [emulator, folder, name, channels, *sizes, *sides]
    process = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    results = {
        "output": (value.dtype, grad_output.shape),
        "grad_value": (locations.dtype, value.shape),
        "grad_value_gathered": (value.dtype, value.shape),
        "grad_locations": (locations.dtype, locations.shape),
        "grad_weights": (weights.dtype, weights.shape),
    }
    return {
        key: torch.from_numpy(np.fromfile(folder / key, dtype=np.uint8))
        .view(dtype)
        .view(shape)
        .double()
        for key, (dtype, shape) in results.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", TYPES)
def test_device_code_equals_the_reference(
    name, case, emulator, sample_inputs, output_and_gradients, tmp_path
):
    exact = sample_inputs(**case)
    # One point of each kind that must not be read: outside the map, infinite, not a number.
    bad = torch.tensor([[-9.0, 0.5], [float("inf"), 0.5], [0.5, float("nan")], [1e30, -1e30]])
    count = min(4, exact.sampling_locations.shape[4])
    exact.sampling_locations[0, 0, 0, 0, :count] = bad[:count].double()
    inputs = exact.to(TYPES[name])
    batch, queries, heads = exact.attention_weights.shape[:3]
    dim = exact.value.shape[-1]
    grad_output = torch.randn(batch, queries, heads * dim).to(TYPES[name])
    output, grad_value, grad_locations, grad_weights = output_and_gradients(
        ms_deform_attn_reference, inputs, grad_output
    )
    expected = {
        "output": output,
        "grad_value": grad_value,
        "grad_value_gathered": grad_value,
        "grad_locations": grad_locations,
        "grad_weights": grad_weights,
    }
    wide = 16 // inputs.value.element_size()
    for channels in {1, wide} if dim % wide == 0 else {1}:
        results = emulate(emulator, tmp_path, name, channels, inputs, grad_output)
        for key, want in expected.items():
            scale = max(1.0, want.abs().max().item())
            torch.testing.assert_close(
                results[key],
                want,
                atol=TOLERANCES[name] * scale,
                rtol=0,
                msg=lambda text, key=key: f"{key}: {text}",
            )
