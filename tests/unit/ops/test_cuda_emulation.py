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
    "dim 16": {"queries": 6, "heads": 2, "dim": 16, "points": 3},
    "dim 32": {"queries": 5, "dim": 32, "shapes": ((6, 5), (3, 2))},
    "dim 64, outside": {"batch": 1, "queries": 3, "heads": 2, "dim": 64, "low": -2.0, "high": 3.0},
    "dim 256": {"batch": 1, "queries": 2, "heads": 1, "dim": 256, "points": 1},
    # The last step over the channels is not full.
    "dim 264": {"batch": 1, "queries": 2, "heads": 1, "dim": 264, "points": 1},
    "dim 20": {"batch": 3, "queries": 3, "heads": 2, "dim": 20, "shapes": ((1, 1), (4, 1), (1, 3))},
    "dim 10": {"batch": 1, "queries": 3, "heads": 2, "dim": 10, "points": 5},
    "dim 7": {"batch": 3, "queries": 7, "heads": 1, "dim": 7, "points": 3},
}
# Whether arrays start one element after a 16-byte boundary, and from how many elements of an image
# on offsets have 64 bits.
LAYOUTS = {"aligned": (0, 2**31), "misaligned": (1, 2**31), "large": (0, 1)}
# Channels per load, lanes of a row and bits of offsets of the kernels that are chosen.
CHOICES = {
    ("float", "dim 16", "aligned"): (4, 4, 32),
    ("float", "dim 32", "aligned"): (4, 8, 32),
    ("float", "dim 32", "misaligned"): (1, 8, 32),
    ("float", "dim 32", "large"): (4, 8, 64),
    ("float", "dim 64, outside", "aligned"): (4, 16, 32),
    ("float", "dim 256", "aligned"): (4, 16, 32),
    ("float", "dim 10", "aligned"): (2, 8, 32),
    ("float", "dim 7", "aligned"): (1, 8, 32),
    ("float", "dim 7", "large"): (1, 8, 64),
    ("bfloat16", "dim 16", "aligned"): (8, 4, 32),
    ("bfloat16", "dim 32", "aligned"): (8, 4, 32),
    ("bfloat16", "dim 32", "misaligned"): (1, 8, 32),
    ("bfloat16", "dim 32", "large"): (8, 8, 64),
    ("bfloat16", "dim 64, outside", "aligned"): (8, 8, 32),
    ("bfloat16", "dim 256", "aligned"): (8, 16, 32),
    ("bfloat16", "dim 20", "aligned"): (4, 8, 32),
    ("bfloat16", "dim 10", "aligned"): (2, 8, 32),
    ("bfloat16", "dim 7", "aligned"): (1, 8, 32),
    ("double", "dim 32", "aligned"): (2, 8, 64),
    ("double", "dim 7", "aligned"): (1, 8, 64),
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


def emulate(
    emulator: Path, folder: Path, name: str, layout: tuple[int, int], inputs, grad_output
) -> tuple[tuple[int, ...], dict]:
    """Run the kernels; returns the choice, and float64 arrays by the names that main.cpp gives."""
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
    command = [emulator, folder, name, *layout, *sizes, *sides]
    process = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    results = {
        "output": (value.dtype, grad_output.shape),
        "grad_value": (locations.dtype, value.shape),
        "grad_value_gathered": (value.dtype, value.shape),
        "grad_locations": (locations.dtype, locations.shape),
        "grad_weights": (weights.dtype, weights.shape),
    }
    arrays = {
        key: torch.from_numpy(np.fromfile(folder / key, dtype=np.uint8))
        .view(dtype)
        .view(shape)
        .double()
        for key, (dtype, shape) in results.items()
    }
    return tuple(map(int, process.stdout.split())), arrays


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TYPES)
def test_device_code_equals_the_reference(
    name, case, emulator, sample_inputs, output_and_gradients, tmp_path
):
    exact = sample_inputs(**CASES[case])
    # One point of each kind that must not be read: outside the map, infinite, not a number.
    bad = torch.tensor([[-9.0, 0.5], [float("inf"), 0.5], [0.5, float("nan")], [1e30, -1e30]])
    count = min(4, exact.sampling_locations.shape[4])
    exact.sampling_locations[0, 0, 0, 0, :count] = bad[:count].double()
    inputs = exact.to(TYPES[name])
    batch, queries, heads = exact.attention_weights.shape[:3]
    grad_output = torch.randn(batch, queries, heads * exact.value.shape[-1]).to(TYPES[name])
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
    for layout, arguments in LAYOUTS.items():
        choice, results = emulate(emulator, tmp_path, name, arguments, inputs, grad_output)
        assert choice == CHOICES.get((name, case, layout), choice), layout
        for key, want in expected.items():
            scale = max(1.0, want.abs().max().item())
            torch.testing.assert_close(
                results[key],
                want,
                atol=TOLERANCES[name] * scale,
                rtol=0,
                msg=lambda text, key=key, layout=layout: f"{layout}, {key}: {text}",
            )
