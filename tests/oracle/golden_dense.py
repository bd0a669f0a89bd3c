"""Reads the golden cases of dense detectors.

The folder is the one that ``VIT_ADAPTER_GOLDEN_DETECTION`` names, by default ``golden_detection``
beside this file.
"""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(
    os.environ.get("VIT_ADAPTER_GOLDEN_DETECTION") or Path(__file__).parent / "golden_detection"
)
Arrays = dict[str, Tensor]


def read(name: str) -> Arrays:
    """The arrays of a file; floating-point numbers as float64."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def with_prefix(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names start with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def numbered(arrays: Arrays, name: str) -> list[Tensor]:
    """The arrays ``name0``, ``name1``, ..."""
    return [arrays[f"{name}{i}"] for i in range(sum(k[: len(name)] == name for k in arrays))]


def assert_near(actual: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    """Compare relative to the largest magnitude of the expected numbers."""
    largest = expected.abs().max().item() if expected.numel() else 1.0
    torch.testing.assert_close(
        actual.detach().to(expected.dtype),
        expected,
        rtol=0,
        atol=tolerance * max(largest, 1e-12),
        msg=lambda text: f"{name}: {text}",
    )
