"""Backbones against numbers computed by the original's own classes.

Reads every case file (``.npz`` with a ``meta`` entry) in the folder named by
``VIT_ADAPTER_GOLDEN``, by default the ``golden`` folder beside this file. A case of a class that
the project does not have fails and says so.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vit_adapter.checkpoint.original import build_backbone, convert_state_dict
from vit_adapter.ops import extension_info

FOLDER = Path(os.environ.get("VIT_ADAPTER_GOLDEN") or Path(__file__).parent / "golden")
OUTPUTS = ("res2", "res3", "res4", "res5")
# Stored as float32, computed in float64.
FLOAT64 = {"atol": 5e-6, "rtol": 1e-5}
FLOAT32 = {"atol": 1e-4, "rtol": 1e-5}


@dataclass(frozen=True)
class Case:
    """One network with its numbers: a file, or a variant of it (same weights, other class)."""

    file: Path
    variant: str

    def __str__(self) -> str:
        return self.file.stem + (f"-{self.variant}" if self.variant else "")


def find_cases() -> list[Case]:
    cases = []
    for file in sorted(FOLDER.glob("*.npz")):
        with np.load(file) as data:
            if "meta" in data.files:
                variants = json.loads(bytes(data["meta"]))["variants"]
                cases += [Case(file, name) for name in ("", *variants)]
    return cases


CASES = find_cases()


@pytest.fixture(params=["kernel", "plain", "reference"])
def op_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What computes deformable attention: the C++ op, PyTorch in its absence, the reference."""
    if request.param == "kernel" and not extension_info()["built"]:
        pytest.skip("the C++ extension is not built")
    if request.param == "plain":
        monkeypatch.setattr("vit_adapter.ops.extension.has_kernel", lambda device_type: False)
    monkeypatch.setenv("VIT_ADAPTER_FORCE_REFERENCE", str(int(request.param == "reference")))


@dataclass
class Result:
    """What the network gives, under the names of the file."""

    outputs: dict[str, Tensor] = field(default_factory=dict)
    intermediates: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)


def rename(key: str) -> str:
    """Our name of an original parameter."""
    return next(iter(convert_state_dict({key: torch.empty(0)})))


def rename_module(name: str) -> str:
    """Our name of an original module."""
    return rename(f"{name}.weight").removesuffix(".weight")


def watch(model: nn.Module, names: list[str], result: Result) -> None:
    """Record the outputs of modules under ``mid/<original name>/<position>``."""
    prefix = model.vit.num_prefix_tokens

    def record(name: str, output: Tensor | tuple[Tensor, ...]) -> None:
        parts = list(output) if isinstance(output, tuple) else [output]
        if name.startswith("interactions") and prefix:  # the original keeps the class token apart
            parts = [parts[0][:, prefix:], parts[1], parts[0][:, :prefix]]
        for position, part in enumerate(parts):
            result.intermediates[f"mid/{name}/{position}"] = part

    for name in names:
        module = model.get_submodule(rename_module(name))
        module.register_forward_hook(lambda _m, _i, output, name=name: record(name, output))


def run(case: Case, dtype: torch.dtype) -> tuple[Result, dict[str, np.ndarray]]:
    """Run a case, with gradients of sum(out * w), and give the result and the stored numbers."""
    with np.load(case.file) as data:
        stored = {key: data[key] for key in data.files}
    meta = json.loads(bytes(stored["meta"]))
    network = meta["variants"][case.variant] if case.variant else meta
    parameters = {
        k.removeprefix("param/"): torch.from_numpy(v)
        for k, v in stored.items()
        if k.startswith("param/")
    }
    model = build_backbone(network["cls"], network["kwargs"])
    model.load_state_dict(convert_state_dict(parameters))
    model = model.to(dtype).eval()

    result = Result()
    watch(model, sorted({key.split("/")[1] for key in stored if key.startswith("mid/")}), result)
    images = torch.from_numpy(stored["input"]).to(dtype).requires_grad_()
    outputs = model(images)
    result.outputs = {f"out/{i}": outputs[name] for i, name in enumerate(OUTPUTS)}
    loss = sum(
        (outputs[name] * torch.from_numpy(stored[f"w/{i}"]).to(dtype)).sum()
        for i, name in enumerate(OUTPUTS)
    )
    loss.backward()
    result.gradients = {
        f"grad/{key}": model.get_parameter(rename(key)).grad for key in meta["grads"]
    }
    result.gradients["grad/input"] = images.grad
    return result, stored


def expected_numbers(case: Case, stored: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The stored numbers of a case: a variant has its own outputs and input gradient, no more."""
    start = f"{case.variant}/" if case.variant else ""
    wanted = ("out/", "grad/input") if case.variant else ("out/", "grad/", "mid/")
    return {
        key.removeprefix(start): torch.from_numpy(value)
        for key, value in stored.items()
        if key.startswith(tuple(start + name for name in wanted))
    }


def assert_equal_numbers(
    case: Case, dtype: torch.dtype, tolerance: dict[str, float], kinds: tuple[str, ...]
) -> None:
    result, stored = run(case, dtype)
    actual = {**result.outputs, **result.intermediates, **result.gradients}
    expected = {k: v for k, v in expected_numbers(case, stored).items() if k.startswith(kinds)}
    assert sum(key.startswith("out/") for key in expected) == len(OUTPUTS)
    for key, value in expected.items():
        torch.testing.assert_close(
            actual[key].detach(),
            value.to(dtype),
            **tolerance,
            msg=lambda text, key=key: f"{case}, {key}: {text}",
        )


def test_folder_has_cases() -> None:
    assert CASES, (
        f"no case file (.npz with a 'meta' entry) in {FOLDER}, which VIT_ADAPTER_GOLDEN names"
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64(case: Case, op_backend: None) -> None:
    assert_equal_numbers(case, torch.float64, FLOAT64, ("out/", "mid/", "grad/"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32(case: Case, op_backend: None) -> None:
    assert_equal_numbers(case, torch.float32, FLOAT32, ("out/",))
