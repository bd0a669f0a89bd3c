"""The CUDA sources compile for the promised architectures, to short code in few registers."""

from __future__ import annotations

import importlib.util
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
def binary(tmp_path_factory, project_root) -> tuple[Path, str]:
    """Every kernel for every architecture, and the compiler's report."""
    target = tmp_path_factory.mktemp("cuda") / "kernels.fatbin"
    includes = f"-I{project_root / 'csrc'}"
    return target, compile_report(KERNELS, target, ARCHITECTURES, "-fatbin", includes)


@pytest.fixture(scope="module")
def kernels(binary) -> dict[tuple[str, str], str]:
    """The report on every kernel for every architecture."""
    return compiled_kernels(binary[1])


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


def find_disassembler() -> str | None:
    """`cuobjdump` of the toolkit, or the one that comes with Triton."""
    folders = [cuda_home() / "bin"]
    triton = importlib.util.find_spec("triton")
    if triton is not None:
        folders.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    folders.append(os.environ["PATH"])
    return shutil.which("cuobjdump", path=os.pathsep.join(map(str, folders)))


@pytest.fixture(scope="module")
def instructions(binary) -> dict[str, list[tuple[int, str]]]:
    """The instructions of every kernel for sm_90, with their addresses."""
    disassembler = find_disassembler()
    if disassembler is None:
        pytest.skip("needs cuobjdump, from the CUDA toolkit or from Triton")
    command = [disassembler, "-sass", "-arch", "sm_90", binary[0]]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = [part.partition("\n") for part in text.split("Function : ")[1:]]
    line = r"/\*([0-9a-f]{4,})\*/\s+(.+?) ?;"
    return {
        name: [(int(address, 16), code) for address, code in re.findall(line, body)]
        for name, _, body in parts
    }


def opcodes(code: list[tuple[int, str]]) -> list[str]:
    return [re.sub(r"^@!?U?P\w+ ", "", text).split()[0] for _, text in code]


def loop_over_points(code: list[tuple[int, str]]) -> list[str]:
    """The operations of the shortest loop in which the lanes get points from each other."""
    loops = []
    for end, (address, text) in enumerate(code):
        jump = re.search(r"BRA\S* .*?0x([0-9a-f]+)$", text)
        if jump and int(jump[1], 16) < address:
            start = next(i for i, (place, _) in enumerate(code) if place == int(jump[1], 16))
            loops.append(opcodes(code[start : end + 1]))
    return min((loop for loop in loops if "SHFL.IDX" in loop), key=len)


def select(instructions: dict, pattern: str, count: int) -> dict[str, list[tuple[int, str]]]:
    selected = {name: code for name, code in instructions.items() if re.search(pattern, name)}
    assert len(selected) == count
    return selected


# 16 bytes per load and 32-bit offsets, with 4, 8 and 16 lanes.
FAST = {
    "float32": "IfLi4ELi\\d+Ej",
    "float16": "I6__halfLi8ELi\\d+Ej",
    "bfloat16": "bfloat16Li8ELi\\d+Ej",
}


@pytest.mark.parametrize(
    ("dtype", "most_instructions"), [("float32", 80), ("float16", 130), ("bfloat16", 130)]
)
def test_forward_is_short_and_has_loads_in_flight(dtype, most_instructions, instructions):
    for name, code in select(instructions, f"forward_kernel.*{FAST[dtype]}", 3).items():
        loop = loop_over_points(code)
        loads = [i for i, operation in enumerate(loop) if operation.startswith("LDG")]
        assert [loop[i] for i in loads] == ["LDG.E.128.CONSTANT"] * 8, name  # of two points
        assert loop.count("SHFL.IDX") == 12, name
        assert len(loop) <= 2 * most_instructions, name
        assert loop.count("BRA") == 1, name  # the loop's own
        first_sum = loop.index("FFMA")
        assert sum(i < first_sum for i in loads) >= 5, name


@pytest.mark.parametrize(
    ("dtype", "most_instructions"), [("float32", 160), ("float16", 240), ("bfloat16", 240)]
)
def test_backward_is_short_and_stores_vectors(dtype, most_instructions, instructions):
    for name, code in select(instructions, f"backward_kernel.*{FAST[dtype]}Lb1", 3).items():
        loop = loop_over_points(code)
        assert len(loop) <= 2 * most_instructions, name
        reductions = [operation for operation in loop if operation.startswith("RED")]
        assert len(reductions) == (8 if dtype == "float32" else 16), name
        assert all(".ADD.F32x4" in operation for operation in reductions), name
        stores = [operation for operation in opcodes(code) if operation.startswith("STG")]
        assert len(stores) == 2 and any("E.64" in operation for operation in stores), name


def test_channels_are_read_and_written_128_bits_at_a_time(instructions):
    wide = r"(forward|gather)_kernelI(fLi4|dLi2|6__halfLi8|\w+bfloat16Li8)E"
    for name, code in select(instructions, wide, 17).items():
        operations = opcodes(code)
        stores = [operation for operation in operations if operation.startswith("STG")]
        assert len(stores) == 1 and ".128" in stores[0], name
        assert any(operation.startswith("LDG.E.128") for operation in operations), name


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
