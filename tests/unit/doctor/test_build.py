"""The build check: every way in which the extension can be missing or not fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vit_adapter.doctor import build
from vit_adapter.doctor.section import Finding, Options
from vit_adapter.ops.extension import has_kernel

MISSING = ModuleNotFoundError("No module named 'vit_adapter._C'", name="vit_adapter._C")
REBUILD = "-m pip install --no-build-isolation -e ."
FOR_THIS_TORCH = {"torch": torch.__version__, "cpu_instruction_set": "AVX2", "compiler": "gcc"}
THIS_EXTENSION = SimpleNamespace(build_info=lambda: FOR_THIS_TORCH, register_operators=None)


def the_finding() -> Finding:
    (finding,) = build.check(Options()).findings
    return finding


@pytest.fixture(autouse=True)
def package(monkeypatch, tmp_path):
    """An empty folder instead of the package's, which may have an extension and a report."""
    monkeypatch.setattr(build, "PACKAGE", tmp_path)
    return tmp_path


@pytest.mark.skipif(not has_kernel("cpu"), reason="no CPU kernel is built here")
def test_this_build_is_fine():
    section = build.check(Options())
    assert section.facts["built"] is True
    assert section.facts["torch"]
    assert not any(finding.kind == "fault" for finding in section.findings)


def test_not_built(fake_extension, monkeypatch):
    fake_extension(MISSING)
    monkeypatch.setattr(build.shutil, "which", lambda name: f"/usr/bin/{name}")
    finding = the_finding()
    assert finding.kind == "warning"  # the results are the same
    assert finding.what == "The operator was not compiled: plain PyTorch is used, which is slower."
    assert finding.fix.startswith("cd ")
    assert f"VIT_ADAPTER_BUILD=cpu {build.remedies.sys.executable} {REBUILD}" in finding.fix


def test_not_built_without_a_compiler(fake_extension, monkeypatch):
    fake_extension(MISSING)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    finding = the_finding()
    assert "There is no C++ compiler." in finding.what
    assert finding.fix.startswith("Install one (Debian, Ubuntu: `apt install g++`), then: cd ")
    assert REBUILD in finding.fix


def test_not_built_because_it_did_not_compile(fake_extension, package):
    fake_extension(MISSING)
    (package / "build_report.txt").write_text(
        "vit_adapter will compute with plain PyTorch.\n"
        "The cpu kernels were not built: op.cpp:3: error: no such header\n"
        "Fix the cause, then run `pip install` again.\n\nall output\n"
    )
    finding = the_finding()
    assert finding.what.endswith("The cpu kernels were not built: op.cpp:3: error: no such header")


def test_built_for_another_torch(fake_extension):
    fake_extension(SimpleNamespace(build_info=lambda: {"torch": "1.9.0"}))
    finding = the_finding()
    assert finding.kind == "fault"
    assert f"was built for torch 1.9.0, but this is torch {torch.__version__}." in finding.what
    assert REBUILD in finding.fix


def test_built_with_another_abi(fake_extension):
    fake_extension(ImportError("_C.so: undefined symbol: _ZN3c106detail"))
    finding = the_finding()
    assert finding.kind == "fault"
    assert "does not load with torch" in finding.what and "undefined symbol" in finding.what
    assert REBUILD in finding.fix


def test_built_for_another_python(fake_extension, package):
    fake_extension(MISSING)
    (package / "_C.cpython-38-x86_64-linux-gnu.so").touch()
    finding = the_finding()
    assert finding.kind == "fault"
    assert "_C.cpython-38-x86_64-linux-gnu.so was built for another Python" in finding.what
    assert REBUILD in finding.fix


@pytest.mark.parametrize("nvcc", [None, "/usr/local/cuda/bin/nvcc"])
def test_built_without_cuda_on_a_machine_with_a_gpu(nvcc, fake_extension, monkeypatch):
    fake_extension(THIS_EXTENSION)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(build.shutil, "which", lambda name: nvcc)
    finding = the_finding()
    assert finding.kind == "warning"
    assert "The extension was built without CUDA" in finding.what
    assert f"VIT_ADAPTER_BUILD=cuda {build.remedies.sys.executable} {REBUILD}" in finding.fix
    assert ("Install the CUDA toolkit 13.0" in finding.fix) == (nvcc is None)


def test_without_a_gpu_no_cuda_is_needed(fake_extension, monkeypatch):
    fake_extension(THIS_EXTENSION)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert build.check(Options()).findings == []
