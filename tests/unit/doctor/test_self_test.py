"""The self-test of the operator notices wrong outputs, wrong gradients and kernels that fail."""

from __future__ import annotations

import pytest
import torch

from vit_adapter import ops
from vit_adapter.doctor import self_test
from vit_adapter.doctor.section import Options


@pytest.fixture(autouse=True)
def only_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_operator_of_this_build_is_right():
    section = self_test.check(Options())
    assert section.findings == []
    assert section.facts.keys() == {"cpu float32", "cpu bfloat16", "cpu float16"}


@pytest.mark.parametrize("part", ["output", "gradient"])
def test_wrong_numbers_are_found(part, monkeypatch):
    right = ops.ms_deform_attn

    def wrong(value, shapes, locations, weights):
        if part == "output":
            return right(value, shapes, locations, weights) * 1.02
        return right(value, shapes, locations.detach() + 0 * locations, weights)

    monkeypatch.setattr(ops, "ms_deform_attn", wrong)
    findings = self_test.check(Options()).findings
    assert len(findings) == 3
    assert "computes wrong numbers on cpu float32" in findings[0].what
    assert findings[0].kind == "fault"
    assert "--no-build-isolation -e ." in findings[0].fix
    assert "VIT_ADAPTER_FORCE_REFERENCE=1" in findings[0].fix


def test_nan_is_wrong(monkeypatch):
    right = ops.ms_deform_attn
    monkeypatch.setattr(ops, "ms_deform_attn", lambda *inputs: right(*inputs) * float("nan"))
    assert len(self_test.check(Options()).findings) == 3


def test_kernels_that_fail(monkeypatch):
    def fail(*inputs):
        raise RuntimeError("compiled for [8.0]; install with TORCH_CUDA_ARCH_LIST=9.0\nmore")

    monkeypatch.setattr(ops, "ms_deform_attn", fail)
    finding = self_test.check(Options()).findings[0]
    assert finding.what.endswith("install with TORCH_CUDA_ARCH_LIST=9.0")
