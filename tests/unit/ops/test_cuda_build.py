"""The CUDA sources compile for the promised architectures and without spilling registers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

MAX_REGISTERS = 128  # at 256 threads per block: half of a multiprocessor's threads at the least


def cuda_home() -> Path:
    """The toolkit's folder; nvcc on the PATH may be a wrapper outside of it."""
    beside = Path(shutil.which("nvcc")).parents[1]
    candidates = [os.environ.get("CUDA_HOME"), "/usr/local/cuda", beside]
    for candidate in candidates:
        if candidate and (Path(candidate) / "include" / "cuda_runtime.h").is_file():
            return Path(candidate)
    raise FileNotFoundError(f"no CUDA toolkit in any of {candidates}; set CUDA_HOME")


@pytest.mark.slow
@pytest.mark.nvcc
def test_cuda_sources_compile_for_ampere_and_hopper(tmp_path, project_root):
    source = project_root / "csrc" / "cuda" / "ms_deform_attn_cuda.cu"
    command = [
        str(cuda_home() / "bin" / "nvcc"),
        *("-std=c++20" if torch.__version__ >= "2.10" else "-std=c++17", "-O3", "--threads=2"),
        *cpp_extension.COMMON_NVCC_FLAGS,
        *("-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90,code=sm_90"),
        *("-DVIT_ADAPTER_WITH_CUDA", "-Xptxas=-v", "-Xcompiler=-fPIC"),
        *(f"-I{path}" for path in cpp_extension.include_paths()),
        *("-c", str(source), "-o", str(tmp_path / "kernels.o")),
    ]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    report = process.stderr + process.stdout
    for architecture in ("sm_80", "sm_90"):
        for kernel in ("forward", "backward", "gather", "cell_keys"):
            entry = rf"Compiling entry function '\S*{kernel}_kernel\S*' for '{architecture}'"
            assert re.search(entry, report)
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", report)]
    assert max(registers) <= MAX_REGISTERS
    assert set(re.findall(r"(\d+) bytes spill", report)) == {"0"}
