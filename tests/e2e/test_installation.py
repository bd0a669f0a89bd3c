"""setup.py: the choices of VIT_ADAPTER_BUILD, and what happens if nothing compiles.

Each case builds a real wheel of a small copy of the project whose C++ sources compile in a second.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MODULE = """#include <Python.h>
#ifndef _OPENMP
#error "compiled without OpenMP: at::parallel_for would be serial"
#endif
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&module); }
"""
PER_SET = """#if !defined(__%s__) || !defined(__FMA__) || !defined(__F16C__)
#error "compiled without its instruction set"
#endif
"""
FAILING_NVCC = """#!/bin/sh
if [ "$1" = --version ]; then
    echo "Cuda compilation tools, release %s, V1.0"
    exit 0
fi
echo "no device code today" >&2
exit 3
"""
BASELINE = """#ifdef __AVX2__
#error "compiled for more than the baseline"
#endif
"""
# Variables that users may have set for other builds.
UNSET = ("CC", "CXX", "CFLAGS", "CPPFLAGS", "CXXFLAGS", "LDFLAGS", "LDSHARED", "FORCE_CUDA",
         "TORCH_CUDA_ARCH_LIST", "VIT_ADAPTER_BUILD", "VIT_ADAPTER_PIN_TORCH")  # fmt: skip


def can_compile() -> bool:
    """Whether extensions for this Python can be compiled here."""
    compilers = [name.split()[0] for name in sysconfig.get_config_vars("CC", "CXX")]
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return all(map(shutil.which, compilers)) and headers.is_file()


needs_compiler = pytest.mark.skipif(
    not can_compile(), reason="needs the C++ compiler and the headers of this Python"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with the real setup.py, one config and small sources."""
    root = tmp_path / "project"
    package = root / "projects" / "ViTAdapter" / "vit_adapter"
    package.mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "MANIFEST.in"):
        shutil.copy(ROOT / name, root / name)
    for name in ("__init__.py", "py.typed"):
        shutil.copy(ROOT / package.relative_to(root) / name, package)
    sources = {
        "csrc/bindings.cpp": MODULE,
        "csrc/cpu/op_baseline.cpp": BASELINE if platform.machine() == "x86_64" else "",
        "csrc/cpu/op_avx2.cpp": PER_SET % "AVX2",
        "csrc/cpu/op_avx512.cpp": PER_SET % "AVX512BW",
        "configs/common/train.py": "train = {}\n",
    }
    for name, text in sources.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def build(project: Path, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Build a wheel; return the finished process and the names of the wheel's files."""
    wheels = project.parent / "wheels"
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    command += ["--no-index", "--disable-pip-version-check", "-w", str(wheels), str(project)]
    environment = {key: value for key, value in os.environ.items() if key not in UNSET}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # the same choice on machines with a GPU
    result = subprocess.run(
        command, env={**environment, **variables}, text=True, capture_output=True, timeout=300
    )
    names: list[str] = []
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as content:
            names += content.namelist()
            content.extractall(project.parent / "installed")
    return result, names


def has_extension(names: list[str]) -> bool:
    return any(name.startswith("vit_adapter/_C.") for name in names)


@needs_compiler
def test_auto_compiles_and_packages_the_configs(project: Path) -> None:
    result, names = build(project)
    assert result.returncode == 0, result.stderr
    assert has_extension(names)
    assert "vit_adapter/configs/common/train.py" in names
    assert "vit_adapter/build_report.txt" not in names
    assert any(name.endswith("licenses/NOTICE") for name in names)


@needs_compiler
def test_nothing_of_an_earlier_build_is_taken(project: Path) -> None:
    """It may have been compiled for another choice of kernels, architectures or PyTorch."""
    _, names = build(project, VIT_ADAPTER_BUILD="cpu")
    assert has_extension(names)
    compiler = {"CC": "no-such-compiler", "CXX": "no-such-compiler"}
    result, _ = build(project, VIT_ADAPTER_BUILD="cpu", **compiler)
    assert result.returncode != 0 and "no-such-compiler" in result.stdout + result.stderr


def test_a_wheel_can_require_the_pytorch_that_it_is_built_for(project: Path) -> None:
    result, names = build(project, VIT_ADAPTER_BUILD="none", VIT_ADAPTER_PIN_TORCH="1")
    assert result.returncode == 0, result.stderr
    minor = ".".join(torch.__version__.split(".")[:2])
    (name,) = [name for name in names if name.endswith("/METADATA")]
    metadata = (project.parent / "installed" / name).read_text()
    assert re.search(rf"^Version: [0-9.]+\+torch{re.escape(minor)}$", metadata, re.MULTILINE)
    assert f"Requires-Dist: torch=={minor}.*" in metadata


@needs_compiler
def test_auto_reports_a_failing_compiler_and_goes_on(project: Path) -> None:
    (project / "csrc" / "bindings.cpp").write_text('#error "this does not compile"\n')
    result, names = build(project, VIT_ADAPTER_BUILD="auto")
    assert result.returncode == 0, result.stderr
    assert not has_extension(names)
    report = (project.parent / "installed" / "vit_adapter" / "build_report.txt").read_text()
    assert "will compute with plain PyTorch" in report
    summary, output = report.split("\n\n", 1)
    assert "this does not compile" in summary and "this does not compile" in output
    assert "pip install --no-build-isolation -e ." in report


def test_auto_reports_a_missing_compiler_and_goes_on(project: Path) -> None:
    result, names = build(project, CC="no-such-compiler", CXX="no-such-compiler")
    assert result.returncode == 0, result.stderr
    assert not has_extension(names)
    report = (project.parent / "installed" / "vit_adapter" / "build_report.txt").read_text()
    assert "no-such-compiler" in report.split("\n\n")[0]  # the summary names the cause


@needs_compiler
def test_auto_falls_back_from_cuda_to_cpu_kernels(project: Path) -> None:
    toolkit = project / "toolkit"
    (toolkit / "bin").mkdir(parents=True)
    (toolkit / "bin" / "nvcc").write_text(FAILING_NVCC % torch.version.cuda)
    (toolkit / "bin" / "nvcc").chmod(0o755)
    (project / "csrc" / "cuda").mkdir()
    (project / "csrc" / "cuda" / "op.cu").write_text("")
    result, names = build(project, FORCE_CUDA="1", CUDA_HOME=str(toolkit))
    assert result.returncode == 0, result.stderr
    assert has_extension(names)
    report = project.parent / "installed" / "vit_adapter" / "build_report.txt"
    if torch.version.cuda is None:  # a CPU build of PyTorch does not try CUDA
        assert not report.exists()
    else:
        assert "only the CPU kernels" in report.read_text()
        assert "no device code today" in report.read_text()


@pytest.mark.nvcc
def test_cuda_compiles_without_a_gpu(project: Path) -> None:
    (project / "csrc" / "cuda").mkdir()
    (project / "csrc" / "cuda" / "op.cu").write_text(
        "__global__ void op() {}\nvoid launch() { op<<<1, 1>>>(); }\n"
    )
    result, names = build(project, VIT_ADAPTER_BUILD="cuda")
    assert result.returncode == 0, result.stderr
    (extension,) = (project.parent / "installed" / "vit_adapter").glob("_C.*")
    assert b"libcudart" in extension.read_bytes() and has_extension(names)


def test_cuda_is_refused_without_a_cuda_build_of_pytorch(project: Path) -> None:
    start_up = project / "start_up"
    start_up.mkdir()
    (start_up / "sitecustomize.py").write_text("import torch\ntorch.version.cuda = None\n")
    result, names = build(project, VIT_ADAPTER_BUILD="cuda", PYTHONPATH=str(start_up))
    assert result.returncode != 0 and not names
    assert "needs a CUDA build of PyTorch" in result.stdout + result.stderr


def test_cuda_is_refused_without_a_toolkit(project: Path) -> None:
    start_up = project / "start_up"
    start_up.mkdir()
    (start_up / "sitecustomize.py").write_text(
        "import torch.utils.cpp_extension as extension\nextension.CUDA_HOME = None\n"
        "import torch\ntorch.version.cuda = '13.0'\n"
    )
    result, names = build(project, VIT_ADAPTER_BUILD="cuda", PYTHONPATH=str(start_up))
    assert result.returncode != 0 and not names
    assert "CUDA_HOME is None, which has no bin/nvcc" in result.stdout + result.stderr


@pytest.mark.parametrize("choice", [pytest.param("cpu", marks=needs_compiler), "cuda"])
def test_an_explicit_choice_fails_with_the_compiler_output(project: Path, choice: str) -> None:
    (project / "csrc" / "bindings.cpp").write_text('#error "this does not compile"\n')
    result, names = build(project, VIT_ADAPTER_BUILD=choice, CUDA_HOME=str(project / "nowhere"))
    assert result.returncode != 0 and not names
    expected = "this does not compile" if choice == "cpu" else str(project / "nowhere")
    assert expected in result.stdout + result.stderr


def test_none_compiles_nothing(project: Path) -> None:
    (project / "csrc" / "bindings.cpp").write_text('#error "this does not compile"\n')
    result, names = build(project, VIT_ADAPTER_BUILD="none")
    assert result.returncode == 0, result.stderr
    assert not has_extension(names) and "vit_adapter/__init__.py" in names
    assert "vit_adapter/py.typed" in names  # type checkers read the annotations
    assert [path.name.split("-")[-1] for path in (project.parent / "wheels").iterdir()] == [
        "any.whl"
    ]


def test_an_unknown_choice_is_refused(project: Path) -> None:
    result, _ = build(project, VIT_ADAPTER_BUILD="gpu")
    assert result.returncode != 0
    assert "expected one of auto, cpu, cuda, none" in result.stdout + result.stderr
