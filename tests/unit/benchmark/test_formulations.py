"""Implementations of other projects are found, or absent for a reason."""

import sys
from types import ModuleType

import pytest
import torch

from vit_adapter.benchmark.formulations import find_formulations


def test_absent_implementations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmcv.ops.multi_scale_deform_attn", ModuleType("no_kernels"))
    monkeypatch.setitem(sys.modules, "deformops.registry", None)  # its import fails
    found, absent = find_formulations(torch.device("cuda"))
    assert list(found)[:2] == ["ours", "grid_sample"] and "ours, deterministic" in found
    assert list(absent) == ["mmcv", "deformable_detr", "deformops", "deformops, float32 sums"]
    assert absent["mmcv"].startswith("AttributeError: ") and "no_kernels" in absent["mmcv"]
    assert absent["deformops"].startswith("ModuleNotFoundError: ")


def test_on_the_cpu_no_other_implementation_is_expected() -> None:
    found, absent = find_formulations(torch.device("cpu"))
    assert list(found) == ["ours", "grid_sample", "embedding_bag"] and absent == {}
