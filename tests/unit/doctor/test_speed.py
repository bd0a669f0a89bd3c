"""The speed check: what it expects, and when it warns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import vit_adapter
from vit_adapter import ops
from vit_adapter.doctor import speed
from vit_adapter.doctor.section import Options

DOCS = Path(vit_adapter.__file__).parents[1] / "docs" / "ops.md"
INFO = {"backends": {"cpu": "kernel", "cuda": "reference"}, "cpu_instruction_set": "AVX-512"}
USUAL = [(1.0, 40.0), (2.0, 46.0)]


@pytest.fixture(autouse=True)
def kernels_on_an_idle_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(ops, "extension_info", lambda: INFO)
    monkeypatch.setattr(speed, "_load", lambda: 0.1)


def check(times: list[tuple[float, float]], monkeypatch) -> speed.Section:
    monkeypatch.setattr(speed, "_measure", lambda device: times)
    return speed.check(Options())


def test_expects_what_the_documentation_says():
    text = DOCS.read_text(encoding="utf-8")
    first, second = re.findall(r"^\| S 512 extractor \| (.+) \|$", text, re.M)[::2]
    gains = re.findall(r"([\d.]+)x", first)
    narrower = re.findall(r"([\d.]+)x", second)
    documented = [tuple(map(float, pair)) for pair in (gains, narrower[:2], narrower[2:])]
    assert list(speed.EXPECTED_GAINS.values()) == documented


def test_usual_gains(monkeypatch):
    section = check(USUAL, monkeypatch)
    assert section.findings == []
    assert section.facts["cpu"]["forward"] == "1 ms, 40 times as fast as plain PyTorch"
    assert section.facts["usual with AVX-512"][0] == "44 times (forward)"


def test_a_slow_operator(monkeypatch):
    (finding,) = check([(10.0, 40.0), (2.0, 46.0)], monkeypatch).findings
    assert finding.kind == "warning"
    assert "4.0 times as fast as plain PyTorch instead of 44 times (forward)" in finding.what
    assert "backward" not in finding.what
    assert "--no-build-isolation -e ." in finding.fix


def test_on_a_loaded_machine_it_says_so(monkeypatch):
    monkeypatch.setattr(speed, "_load", lambda: 2.0)
    (finding,) = check([(10.0, 40.0), (20.0, 46.0)], monkeypatch).findings
    assert "Other programs use the processor: the load per core is 2.0." in finding.what
    assert "when the machine is idle" in finding.fix


def test_without_kernels_nothing_is_measured(monkeypatch):
    plain = {"backends": {"cpu": "embedding_bag", "cuda": "reference"}}
    monkeypatch.setattr(ops, "extension_info", lambda: {**INFO, **plain})
    section = check(USUAL, monkeypatch)
    assert section.facts["cpu"] == "not measured: computed by embedding_bag"
    assert section.findings == []


@pytest.mark.skipif(not ops.extension.has_kernel("cpu"), reason="no CPU kernel is built here")
def test_measures_the_operator(monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    forward, both = speed._measure("cpu")
    assert forward[1] > 2 * forward[0]  # grid_sample takes much longer
    assert 0 < both[0] < both[1]
