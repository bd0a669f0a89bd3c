"""Reads the golden cases of DINOv3's and DINOv2's segmentors.

They lie in the folder named by ``VIT_ADAPTER_GOLDEN_DINO``, by default
``tests/oracle/golden_dino``. Configurations come from its ``config.json``, sizes from the arrays.

A test says with :func:`reads` which arrays of which files it reads. It fails if it leaves one of
them out, and ``test_golden_dino.py`` fails if there are arrays that no test reads.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detection_cases.reader import Arrays, Case, check, matches
from torch import Tensor, nn

FOLDER = Path(
    os.environ.get("VIT_ADAPTER_GOLDEN_DINO") or Path(__file__).parents[1] / "golden_dino"
)
INPUTS = ("*image", "*_image[0-9]")  # the names of the inputs of a case

__all__ = [
    "CLAIMS", "FOLDER", "INPUTS", "Arrays", "Case", "check", "check_map", "config", "matches",
    "open_case", "read", "reads", "record_inputs", "record_outputs",
]  # fmt: skip

CLAIMS: list[tuple[str, tuple[str, ...]]] = []
"""Which files the tests read, and which of their arrays."""


def config(kind: str) -> dict[str, Any]:
    """The configuration of "dinov3" or "dinov2"."""
    return json.loads((FOLDER / "config.json").read_text())[kind]


def read(name: str) -> dict[str, Tensor]:
    """All arrays of a file; those in float16 hold exact values and become float64."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as data:
        arrays = {key: torch.from_numpy(data[key]) for key in data.files}
    return {k: v.double() if v.dtype == torch.float16 else v for k, v in arrays.items()}


def open_case(file: str, names: tuple[str, ...]) -> Case:
    """The inputs in a file, and the arrays with one of the names."""
    arrays = {k: v for k, v in read(file).items() if matches(k, (*INPUTS, *names))}
    unread = {name for name in arrays if not matches(name, INPUTS)}
    return Case(file.partition("_")[0], arrays, unread)


def reads(files: str, *names: str) -> pytest.MarkDecorator:
    """Run a test, which has an argument ``case``, for each of some files.

    Args:
        files: names without suffix, with wildcards; several are separated by spaces.
        names: of arrays, with wildcards.
    """
    CLAIMS.extend((file, names) for file in files.split())
    found = sorted(path.stem for file in files.split() for path in FOLDER.glob(f"{file}.npz"))
    params = [(file, names) for file in found]
    return pytest.mark.parametrize("case", params, ids=found, indirect=True)


def check_map(labels: Tensor, expected: Tensor, scores: Tensor, tolerance: float = 1e-9) -> None:
    """Compare classes with the expected ones, except where two scores are as good as equal.

    Args:
        labels: (..., H, W).
        expected: the same.
        scores: (..., K, H, W), the expected scores of the classes.
        tolerance: difference of the two best scores up to which either class is right.
    """
    best = scores.topk(2, dim=-3).values
    clear = best.select(-3, 0) - best.select(-3, 1) > tolerance
    assert torch.equal(labels.to(expected.dtype)[clear], expected[clear])
    assert clear.double().mean() > 0.99


def record_inputs(module: nn.Module) -> list[tuple[Any, ...]]:
    """The list to which each call of a module appends its positional arguments."""
    calls: list[tuple[Any, ...]] = []
    module.register_forward_pre_hook(lambda _module, arguments: calls.append(arguments))
    return calls


def record_outputs(module: nn.Module) -> list[Any]:
    """The list to which each call of a module appends its result."""
    results: list[Any] = []
    module.register_forward_hook(lambda _module, _arguments, result: results.append(result))
    return results
