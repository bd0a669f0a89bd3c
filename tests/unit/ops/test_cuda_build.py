"""The CUDA sources compile for the promised architectures, in few registers, without spilling."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

pytestmark = [pytest.mark.slow, pytest.mark.nvcc]

KERNELS = Path(__file__).parent / "cuda_build" / "kernels.cu"
ARCHITECTURES = ("sm_80", "sm_90", "sm_120")
# A multiprocessor has 65,536: enough for 1024 threads with 64 each, 512 with 128, or 384 with 168.
MAX_REGISTERS = {"forward": 64, "backward": 128, "gather": 64, "cell_keys": 40, "sorted_points": 40}
MAX_REGISTERS_64_BITS = 168
NUM_KERNELS = {"forward": 25, "backward": 50, "gather": 13, "cell_keys": 4, "sorted_points": 2}


def cuda_home() -> Path:
    """The toolkit's folder; nvcc on the PATH may be a wrapper outside it."""
    beside = Path(shutil.which("nvcc")).parents[1]
    candidates = [os.environ.get("CUDA_HOME"), "/usr/local/cuda", beside]
    for candidate in candidates:
        if candidate and (Path(candidate) / "include" / "cuda_runtime.h").is_file():
            return Path(candidate)
    raise FileNotFoundError(f"no CUDA toolkit in any of {candidates}; set CUDA_HOME")


def compile_report(source: Path, target: Path, architectures: tuple[str, ...], *flags: str) -> str:
    """Compile and return what the compiler says of each kernel's registers."""
    command = [
        str(cuda_home() / "bin" / "nvcc"),
        *("-std=c++20" if torch.__version__ >= "2.10" else "-std=c++17", "-O3", "--threads=2"),
        *(f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in architectures),
        *("-Xptxas=-v", *flags, str(source), "-o", str(target)),
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    report = process.stderr + process.stdout
    assert process.returncode == 0, report
    return report


def compiled_kernels(report: str) -> dict[tuple[str, str], str]:
    """Return the part of the report on each kernel, by (mangled name, architecture)."""
    heads = list(re.finditer(r"Compiling entry function '(\S+)' for '(\w+)'", report))
    ends = [head.start() for head in heads[1:]] + [len(report)]
    return {
        (head[1], head[2]): report[head.end() : end] for head, end in zip(heads, ends, strict=True)
    }


@pytest.fixture(scope="module")
def kernels(tmp_path_factory, project_root) -> dict[tuple[str, str], str]:
    """The report on every kernel for every architecture."""
    target = tmp_path_factory.mktemp("cuda") / "kernels.fatbin"
    includes = f"-I{project_root / 'csrc'}"
    return compiled_kernels(compile_report(KERNELS, target, ARCHITECTURES, "-fatbin", includes))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", MAX_REGISTERS)
def test_kernels_keep_to_their_registers(kind, architecture, kernels):
    reports = {
        name: report
        for (name, compiled_for), report in kernels.items()
        if compiled_for == architecture and f"{kind}_kernel" in name
    }
    assert len(reports) == NUM_KERNELS[kind]
    for name, report in reports.items():
        used = int(re.search(r"Used (\d+) registers", report)[1])
        is_wide = re.search(r"_kernelId|backward_kernelI\w+El", name)  # numbers or offsets
        limit = MAX_REGISTERS_64_BITS if is_wide else MAX_REGISTERS[kind]
        assert used <= limit, f"{name}: {used} registers"
        spilled = re.findall(r"(\d+) bytes (?:spill|stack)", report)
        assert spilled and set(spilled) == {"0"}, f"{name}: {report}"


def test_channels_are_read_and_written_128_bits_at_a_time(tmp_path, project_root):
    target = tmp_path / "kernels.ptx"
    compile_report(KERNELS, target, ("sm_90",), "-ptx", f"-I{project_root / 'csrc'}")
    count = 0
    kernels = re.findall(r"\.entry (\S+)\((.*?)^}", target.read_text(), re.DOTALL | re.MULTILINE)
    for name, body in kernels:
        if not re.search(r"(forward|gather)_kernelI(fLi4|dLi2|6__halfLi8|\w+bfloat16Li8)E", name):
            continue  # narrower, or gradients of points
        count += 1
        assert re.findall(r"st\.global\.?\S*", body) == ["st.global.wb.v4.u32"], name
        assert re.search(r"ld\.global\.nc\.v4\.", body), name
    assert count == 17


def test_whole_source_compiles_to_the_same_kernels(tmp_path, project_root, kernels):
    report = compile_report(
        project_root / "csrc" / "cuda" / "ms_deform_attn_cuda.cu",
        tmp_path / "source.o",
        ("sm_90",),
        *cpp_extension.COMMON_NVCC_FLAGS,
        *("-DVIT_ADAPTER_WITH_CUDA", "-Xcompiler=-fPIC", "-c"),
        *(f"-I{path}" for path in cpp_extension.include_paths()),
    )
    expected = {name for name, architecture in kernels if architecture == "sm_90"}
    assert {name for name, _ in compiled_kernels(report)} == expected
