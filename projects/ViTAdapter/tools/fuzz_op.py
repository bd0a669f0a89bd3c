"""Fuzz the kernels of multi-scale deformable attention under AddressSanitizer and UBSan.

    fuzz_op.py SECONDS [--seed N] [--sets baseline avx2 avx512] [--build FOLDER]

Compiles the unmodified kernels of csrc/ for the host, with the sanitizers: the CPU kernels for each
requested instruction set that this machine has, and the device code with an emulation of CUDA. Then
it calls them for the given time with random shapes and contents, including points on the edges of
pixels, infinite and NaN values and misaligned arrays. Results of finite inputs are compared with
the definition, evaluated point by point in double precision.

Exits with status 1 at the first finding, and prints the seed that reproduces it
(``fuzz_op.py 0 --seed N``). Needs the source tree and GCC or Clang on Linux; compiling takes
about a minute on two cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HARNESS = ROOT / "tests" / "unit" / "ops" / "fuzzing"
EMULATION = ROOT / "tests" / "unit" / "ops" / "cuda_emulation"
# -w: host compilers do not know the device code's pragmas. -O0: fastest compilation.
FLAGS = ["-std=c++17", "-O0", "-w"]
# -no-pie: with vm.mmap_rnd_bits=32, a program at a random address may overlap the heap of the
# AddressSanitizer in GCC before 13.3, and then crashes at its start.
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-no-pie"]
INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
        *("-mfma", "-mf16c"),
    ],
}


def available_sets() -> list[str]:
    """Return the instruction sets that can be compiled for this machine and run, widest last."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ["baseline"]
    features = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    return [
        name
        for name, flags in INSTRUCTION_SETS.items()
        if all(flag.removeprefix("-m") in features for flag in flags)
    ]


def build(folder: Path, sets: Sequence[str]) -> Path:
    """Compile the program in a folder.

    Args:
        folder: folder for the object files and the program; created if it does not exist.
        sets: names from `INSTRUCTION_SETS`.

    Returns:
        Path of the program; its commands are ``fuzz SECONDS SEED`` and ``large``.

    Raises:
        RuntimeError: there is no compiler, or it fails.
    """
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise RuntimeError("fuzzing needs a C++ compiler, g++ or clang++; install one")
    folder.mkdir(parents=True, exist_ok=True)
    command = [compiler, *FLAGS, *SANITIZERS, f"-I{ROOT / 'csrc'}", f"-I{EMULATION}"]
    defines = [f"-DFUZZ_{name.upper()}" for name in sets]
    jobs = {
        ROOT / "csrc" / "cpu" / f"ms_deform_attn_{name}.cpp": INSTRUCTION_SETS[name]
        for name in reversed(sets)  # slowest compilation first
    }
    jobs |= {path: defines for path in sorted(HARNESS.glob("*.cpp"))}

    def compile_file(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        run([*command, *jobs[source], "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_file, jobs))
    program = folder / "fuzzing"
    run([*command, *map(str, objects), "-o", str(program)])
    return program


def run(command: Sequence[str]) -> None:
    """Run the compiler; raise RuntimeError with its output if it fails."""
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{process.stderr}")


def main(arguments: list[str] | None = None) -> int:
    """Build and run the program, and return its exit status."""
    parser = argparse.ArgumentParser(description="Fuzz multi-scale deformable attention.")
    parser.add_argument("seconds", type=float, help="how long to run; 0 runs one case")
    parser.add_argument("--seed", type=int, default=None, help="first seed (default: the time)")
    parser.add_argument("--sets", nargs="+", choices=list(INSTRUCTION_SETS), default=None)
    parser.add_argument("--build", type=Path, default=None, help="keep compiled files there")
    options = parser.parse_args(arguments)
    sets = options.sets or available_sets()
    missing = set(sets) - set(available_sets())
    if missing:
        parser.error(f"this machine has no {', '.join(sorted(missing))}")
    seed = int(time.time()) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory() as temporary:
        program = build(options.build or Path(temporary), sets)
        print(f"fuzzing for {options.seconds:g} s from seed {seed}", flush=True)
        command = [str(program), "fuzz", str(options.seconds), str(seed)]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
