"""Loading the extension, what it reports, and which backend is chosen."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator

import pytest
import torch

from vit_adapter.ops import (
    extension,
    extension_info,
    functional,
    ms_deform_attn,
    ms_deform_attn_reference as reference,
)
from vit_adapter.ops.extension import has_kernel, load_extension, select_backend
from vit_adapter.ops.reference import ms_deform_attn_embedding_bag as embedding_bag

needs_cpu_kernel = pytest.mark.skipif(not has_kernel("cpu"), reason="no CPU kernel is built here")


@pytest.fixture
def fresh_extension() -> Iterator[None]:
    """Forgets what was loaded and warned about, before and after a test."""
    for cached in (load_extension, functional._warn_about_slow_cuda):
        cached.cache_clear()
    yield
    for cached in (load_extension, functional._warn_about_slow_cuda):
        cached.cache_clear()


def replace_import(monkeypatch: pytest.MonkeyPatch, result: object) -> None:
    """Makes importing the extension give a module, or raise an exception."""

    def import_module(name: str) -> object:
        assert name == "vit_adapter._C"
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(extension.importlib, "import_module", import_module)


def test_not_built_gives_no_warning(monkeypatch, fresh_extension):
    missing = ModuleNotFoundError("No module named 'vit_adapter._C'", name="vit_adapter._C")
    replace_import(monkeypatch, missing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        info = extension_info()
    assert info["built"] is False
    assert "was not built" in info["problem"]
    assert "pip install --no-build-isolation -e ." in info["problem"]
    assert info["backends"] == {"cpu": "embedding_bag", "cuda": "reference"}


def test_built_for_another_torch_says_so(monkeypatch, fresh_extension):
    module = types.SimpleNamespace(build_info=lambda: {"torch": "1.9.0"})
    replace_import(monkeypatch, module)
    with pytest.warns(RuntimeWarning, match=r"built for torch 1\.9\.0, but this is torch 2"):
        info = extension_info()
    assert info["built"] is False
    assert info["backends"]["cpu"] == "embedding_bag"


def test_built_from_older_sources_says_so(monkeypatch, fresh_extension):
    module = types.SimpleNamespace(build_info=lambda: {"torch": torch.__version__})
    replace_import(monkeypatch, module)
    with pytest.warns(RuntimeWarning, match="was built from older sources.*reinstall it"):
        assert load_extension().module is None


def test_undefined_symbols_are_reported_as_another_torch(monkeypatch, fresh_extension):
    replace_import(monkeypatch, ImportError("_C.so: undefined symbol: _ZN3c106detail"))
    with pytest.warns(RuntimeWarning, match="does not load with torch .*undefined symbol"):
        assert load_extension().module is None


def test_an_import_error_of_another_module_is_not_hidden(monkeypatch, fresh_extension):
    replace_import(monkeypatch, ModuleNotFoundError("No module named 'other'", name="other"))
    with pytest.raises(ModuleNotFoundError, match="other"):
        load_extension()


@needs_cpu_kernel
def test_info_of_this_build():
    info = extension_info()
    assert info["built"] is True
    assert info["problem"] == ""
    assert info["torch"].split(".")[:2] == torch.__version__.split(".")[:2]
    assert info["cpu_instruction_set"] in ("AVX-512", "AVX2", "baseline")
    assert info["backends"]["cpu"] == "kernel"
    assert bool(info["cuda"]) == bool(info["cuda_architectures"])


@pytest.mark.parametrize(("value", "forced"), [("1", True), ("0", False), ("", False)])
def test_environment_forces_the_reference(value, forced, monkeypatch):
    monkeypatch.setenv("VIT_ADAPTER_FORCE_REFERENCE", value)
    assert (select_backend("cpu") == "reference") == forced


@pytest.mark.parametrize(
    ("backend", "expected"), [("reference", reference), ("embedding_bag", embedding_bag)]
)
def test_public_function_follows_the_choice(backend, expected, monkeypatch, sample_inputs):
    monkeypatch.setattr(functional, "select_backend", lambda device_type: backend)
    inputs = sample_inputs().to(torch.float32)
    assert torch.equal(ms_deform_attn(*inputs), expected(*inputs))


@pytest.mark.parametrize("backend", ["reference", "embedding_bag"])
def test_formulations_without_a_kernel_compile_too(backend, monkeypatch, sample_inputs):
    monkeypatch.setattr(functional, "select_backend", lambda device_type: backend)
    compiled = torch.compile(ms_deform_attn, fullgraph=True, dynamic=True, backend="aot_eager")
    inputs = sample_inputs().to(torch.float32)
    torch.testing.assert_close(compiled(*inputs), ms_deform_attn(*inputs))
    torch.compiler.reset()  # the backend is a constant in compiled code


def test_cuda_without_a_kernel_warns_once(monkeypatch, fresh_extension):
    monkeypatch.setattr(functional, "select_backend", lambda device_type: "reference")
    with pytest.warns(RuntimeWarning, match="runs on CUDA as plain PyTorch, which is slow"):
        functional._backend("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        functional._backend("cuda")
        functional._backend("cpu")


CHECK_INSTRUCTION_SET = """
import sys
import torch
from vit_adapter.ops import extension_info, ms_deform_attn, ms_deform_attn_reference

assert extension_info()["cpu_instruction_set"] == sys.argv[1], extension_info()
shapes = [(6, 5), (3, 2)]
for dtype, tolerance in [
    (torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)
]:
    for dim in (32, 64, 27):
        wide = torch.promote_types(dtype, torch.float32)
        value = torch.randn(2, 36, 3, dim).to(dtype).requires_grad_()
        locations = (torch.rand(2, 9, 3, 2, 4, 2, dtype=wide) * 1.4 - 0.2).requires_grad_()
        weights = torch.rand(2, 9, 3, 2, 4, dtype=wide).requires_grad_()
        leaves = [value, locations, weights]
        results = []
        for function in (ms_deform_attn, ms_deform_attn_reference):
            output = function(value, shapes, locations, weights)
            results.append((output, *torch.autograd.grad(output.sum(), leaves)))
        torch.testing.assert_close(*results, atol=tolerance * dim, rtol=tolerance)
"""


def limited_process(capability: str, instruction_set: str) -> subprocess.CompletedProcess:
    """Compares kernels with the reference in a process that is limited to an instruction set."""
    environment = {**os.environ, "VIT_ADAPTER_CPU_CAPABILITY": capability}
    command = [sys.executable, "-c", CHECK_INSTRUCTION_SET, instruction_set]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@needs_cpu_kernel
@pytest.mark.parametrize("capability", ["avx2", "baseline"])
def test_narrower_instruction_sets_agree(capability):
    widest = extension_info()["cpu_instruction_set"]
    chosen = "AVX2" if capability == "avx2" and widest != "baseline" else "baseline"
    process = limited_process(capability, chosen)
    assert process.returncode == 0, process.stderr


@needs_cpu_kernel
def test_unknown_instruction_set_is_refused():
    process = limited_process("sse9", "baseline")
    assert "must be avx512, avx2 or baseline, got sse9" in process.stderr


@needs_cpu_kernel
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm, which comes with compilers")
def test_kernels_hold_no_library_code():
    """Kernels compiled for one instruction set must not export inline functions to the rest."""
    path = importlib.import_module("vit_adapter._C").__file__
    names = subprocess.run(
        ["nm", "--dynamic", "--defined-only", "--demangle", path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for namespace in ("avx512::", "avx2::", "baseline::"):
        assert f"vit_adapter::cpu::{namespace}" not in names
