"""Installs the package ``vit_adapter`` and compiles its extension ``vit_adapter._C``.

The environment chooses what is compiled::

    VIT_ADAPTER_BUILD=auto  (default) CUDA kernels if there are the CUDA compiler, a CUDA build of
                            PyTorch and a reason to build them (a visible GPU, FORCE_CUDA=1 or
                            TORCH_CUDA_ARCH_LIST), otherwise CPU kernels. Kernels that do not
                            compile are left out: the package then computes in plain PyTorch, and
                            ``vit_adapter/build_report.txt`` says why, with the compiler output.
    VIT_ADAPTER_BUILD=cpu   CPU kernels; the installation fails if they do not compile.
    VIT_ADAPTER_BUILD=cuda  CPU and CUDA kernels; the installation fails if they do not compile.
    VIT_ADAPTER_BUILD=none  no kernels.
    MAX_JOBS                number of files compiled at the same time (default: one per core).
    VIT_ADAPTER_PIN_TORCH=1 for wheels that are given to others, because their kernels run only with
                            the PyTorch that they are compiled for: the version names it, as in
                            0.1.0+torch2.14, and the package requires this minor version.

PyTorch must already be installed and visible to pip: ``pip install --no-build-isolation -e .``
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("projects/ViTAdapter/vit_adapter")
CHOICES = ("auto", "cpu", "cuda", "none")
REPORT = "build_report.txt"

# -fopenmp: without it, at::parallel_for silently compiles to a plain loop.
# -g0: Python's own flags ask for debug information, which triples time and size.
# -Wno-psabi: vector types are only passed between functions of the same file.
CXX_FLAGS = ["-O3", "-g0", "-Wno-psabi", *([] if sys.platform == "darwin" else ["-fopenmp"])]
NVCC_FLAGS = ["-O3"]

# The kernels of each instruction set have their own files; the program chooses at run time.
INSTRUCTION_SET_FLAGS = {
    "_avx2.cpp": ["-mavx2", "-mfma", "-mf16c"],
    "_avx512.cpp": [
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
        *("-mfma", "-mf16c"),
    ],
}
# Used if no GPU is visible, where the compiler and PyTorch support them. GPUs between and after
# these compile the PTX.
CUDA_ARCHITECTURES = ("7.0", "7.5", "8.0", "9.0+PTX", "10.0", "12.0")

INSTALL_REQUIRES = [
    "torch>=2.4",
    "torchvision>=0.19",
    "timm>=1.0.31",
    "numpy",
    "scipy",
    "Pillow",
    "matplotlib",
    "opencv-python-headless",
    "pycocotools>=2.0.7",
    "shapely>=2.0",
    "fvcore>=0.1.5.post20221221",
    "iopath>=0.1.9",
    "omegaconf>=2.3",
    "hydra-core>=1.3",
    "cloudpickle",
    "safetensors>=0.4",
    "tabulate",
    "termcolor",
    "tensorboard",
    "tqdm",
    "yacs>=0.1.8",
]

EXTRAS_REQUIRE = {
    "wandb": ["wandb>=0.19"],
    "mlflow": ["mlflow>=2.14"],
    "compare": ["hotcoco>=1.3"],
    "export": ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.22"],
    "web": ["gradio>=6.0"],
    "images": ["tifffile", "imageio"],
}


def requested_build() -> str:
    """Returns the value of VIT_ADAPTER_BUILD; raises ValueError if it is not a valid choice."""
    value = os.environ.get("VIT_ADAPTER_BUILD", "auto")
    if value not in CHOICES:
        raise ValueError(f"VIT_ADAPTER_BUILD={value}: expected one of {', '.join(CHOICES)}.")
    return value


def import_build_extension() -> tuple[type[build_ext], str]:
    """Returns (PyTorch's build_ext, "") or (setuptools' one, why PyTorch's is not available)."""
    nvcc = shutil.which("nvcc")
    if nvcc and "CUDA_HOME" not in os.environ and not find_cuda_runtime(Path(nvcc).parents[1]):
        # nvcc is a wrapper script, and PyTorch would look for the toolkit next to it.
        if find_cuda_runtime(Path("/usr/local/cuda")):
            os.environ["CUDA_HOME"] = "/usr/local/cuda"
    try:
        from torch.utils.cpp_extension import BuildExtension
    except (ImportError, OSError) as error:  # it or one of its libraries is missing
        hint = "install PyTorch first, then run pip with --no-build-isolation"
        return build_ext, f"PyTorch cannot be imported while building ({error}); {hint}."
    # Not with ninja, which would give every file the same flags.
    return BuildExtension.with_options(use_ninja=False), ""


def find_cuda_runtime(toolkit: Path) -> bool:
    """Whether a folder has the headers of the CUDA runtime, as a toolkit does."""
    return (toolkit / "include" / "cuda_runtime.h").is_file()


def kernel_kinds(requested: str) -> tuple[str, ...]:
    """Returns the kinds to try, best first: ``"cuda"`` (CPU and CUDA kernels) or ``"cpu"``."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if requested == "cuda" and torch.version.cuda is None:
        raise RuntimeError(
            f"VIT_ADAPTER_BUILD=cuda needs a CUDA build of PyTorch, but torch {torch.__version__} "
            "is not one (ROCm is not supported); install one, or use VIT_ADAPTER_BUILD=cpu."
        )
    has_compiler = CUDA_HOME is not None and (Path(CUDA_HOME) / "bin" / "nvcc").is_file()
    if requested == "cuda" and not has_compiler:
        raise RuntimeError(
            "VIT_ADAPTER_BUILD=cuda needs CUDA's compiler, but CUDA_HOME is "
            f"{CUDA_HOME}, which has no bin/nvcc; set it to the folder of a CUDA toolkit, or use "
            "VIT_ADAPTER_BUILD=cpu."
        )
    if requested != "auto":
        return (requested,)

    forced = os.environ.get("FORCE_CUDA") == "1" or bool(os.environ.get("TORCH_CUDA_ARCH_LIST"))
    wanted = forced or torch.cuda.is_available()
    if wanted and has_compiler and torch.version.cuda is not None:
        return ("cuda", "cpu")
    return ("cpu",)


def source_files(kind: str) -> list[str]:
    """Lists the sources of the extension relative to the root, as setuptools needs them."""
    files = [*Path("csrc").glob("*.cpp"), *Path("csrc/cpu").glob("*.cpp")]
    if platform.machine().lower() not in ("x86_64", "amd64"):
        files = [file for file in files if not file.name.endswith(tuple(INSTRUCTION_SET_FLAGS))]
    if kind == "cuda":
        files += Path("csrc/cuda").glob("*.cu")
    return sorted(file.as_posix() for file in files)


def select_cuda_architectures(compiler: str, pytorch: str) -> str:
    """Selects from CUDA_ARCHITECTURES, in the form of TORCH_CUDA_ARCH_LIST.

    Args:
        compiler: what ``nvcc --list-gpu-arch`` prints, such as ``compute_80 compute_90``.
        pytorch: what PyTorch's own kernels were compiled for, such as ``sm_80 sm_90``.

    Raises:
        RuntimeError: the compiler and PyTorch have no architecture in common.
    """
    supported = {name.replace("compute_", "sm_") for name in compiler.split()} & {*pytorch.split()}
    numbers = {name: name.removesuffix("+PTX").replace(".", "") for name in CUDA_ARCHITECTURES}
    selected = [name for name, number in numbers.items() if f"sm_{number}" in supported]
    if not selected:  # as with PyTorch for Jetson: all that it was compiled for
        digits = sorted(int(name[3:]) for name in supported if name[3:].isdecimal())
        selected = [f"{number // 10}.{number % 10}" for number in digits]
    if not selected:
        raise RuntimeError(
            f"PyTorch is for {pytorch}, and nvcc compiles for {' '.join(compiler.split())}: "
            "they have no architecture in common; set TORCH_CUDA_ARCH_LIST to that of your GPU."
        )
    return ";".join(selected)


def default_cuda_architectures() -> str:
    """Returns the value of TORCH_CUDA_ARCH_LIST for a machine without a GPU."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    command = [str(Path(CUDA_HOME) / "bin" / "nvcc"), "--list-gpu-arch"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {listed.stderr or listed.stdout}")
    return select_cuda_architectures(listed.stdout, torch._C._cuda_getArchFlags())


def make_extension(kind: str) -> Extension:
    """Describes ``vit_adapter._C`` with the kernels of one kind, ``"cpu"`` or ``"cuda"``."""
    import torch
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if kind == "cuda" and not chosen and not torch.cuda.is_available():
        os.environ["TORCH_CUDA_ARCH_LIST"] = default_cuda_architectures()
    return (CUDAExtension if kind == "cuda" else CppExtension)(
        "vit_adapter._C",
        source_files(kind),
        include_dirs=[str(ROOT / "csrc")],
        define_macros=[("VIT_ADAPTER_WITH_CUDA", None)] if kind == "cuda" else [],
        extra_compile_args={"cxx": CXX_FLAGS, "nvcc": NVCC_FLAGS},
        extra_link_args=[flag for flag in CXX_FLAGS if flag == "-fopenmp"],
    )


@contextlib.contextmanager
def captured_output() -> Iterator[Callable[[], str]]:
    """Collects the output of this process and its children, the compilers; shows it at the end.

    Yields a function that returns the text so far.
    """
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(file.fileno(), number)

        def text() -> str:
            sys.stdout.flush()
            sys.stderr.flush()
            file.seek(0)
            content = file.read().decode(errors="replace")
            file.seek(0, os.SEEK_END)
            return content

        try:
            yield text
        finally:
            output = text()
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            sys.stderr.write(output)


def compile_in_parallel(compile_files: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Wraps a compiler's ``compile`` to compile C++ files in parallel, and then CUDA files.

    CUDA files are compiled one by one, because PyTorch replaces the compiler's command for them.
    """

    def compile_all(sources: list[str], **options: object) -> list[str]:
        plain = [source for source in sources if not source.endswith(".cu")]
        jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        with ThreadPoolExecutor(jobs) as pool:
            objects = list(pool.map(lambda source: compile_files([source], **options), plain))
        objects += [compile_files([source], **options) for source in sources if source not in plain]
        return [file for files in objects for file in files]

    return compile_all


TorchBuildExtension, TORCH_PROBLEM = (
    (build_ext, "") if requested_build() == "none" else import_build_extension()
)


class BuildKernels(TorchBuildExtension):
    """Builds the extension; with ``auto``, leaves it out and reports why if building fails."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True  # what is left of an earlier build may be for another choice or PyTorch

    def run(self) -> None:
        requested = requested_build()
        if TORCH_PROBLEM and requested != "auto":
            raise RuntimeError(TORCH_PROBLEM)
        problems = [(TORCH_PROBLEM, "")] if TORCH_PROBLEM else []
        for kind in () if TORCH_PROBLEM else kernel_kinds(requested):
            problem = self.try_build(kind, must_succeed=requested != "auto")
            if problem is None:
                break
            problems.append(problem)
        else:
            self.extensions = []  # there is nothing to install
            remove_extension(self.package_folder())
        self.write_report(problems)

    def try_build(self, kind: str, *, must_succeed: bool) -> tuple[str, str] | None:
        """Builds the kernels of one kind; returns None, or (what went wrong, the full output)."""
        before = self.inplace, self.compiler
        with captured_output() as output:
            try:
                # Update this object in place: setuptools has set its other attributes.
                vars(self.extensions[0]).update(vars(make_extension(kind)))
                super().run()
            except Exception as error:  # compilers, PyTorch and setuptools may raise anything
                if must_succeed:
                    raise
                self.inplace, self.compiler = before  # changed by the failed run
                return f"The {kind} kernels were not built: {cause(error, output())}", output()
        return None

    def build_extensions(self) -> None:
        compile_file = self.compiler._compile

        def compile_with_flags(obj, src, ext, cc_args, extra_postargs, pp_opts) -> None:
            for suffix, flags in INSTRUCTION_SET_FLAGS.items():
                if src.endswith(suffix):
                    extra_postargs = [*extra_postargs, *flags]
            compile_file(obj, src, ext, cc_args, extra_postargs, pp_opts)

        self.compiler._compile = compile_with_flags
        self.compiler.compile = compile_in_parallel(self.compiler.compile)
        super().build_extensions()

    def package_folder(self) -> Path:
        return ROOT / PACKAGE if self.inplace else Path(self.build_lib) / "vit_adapter"

    def write_report(self, problems: list[tuple[str, str]]) -> None:
        """Reports what went wrong, in the log and in a file in the package's folder.

        The file starts with a summary, up to the first empty line; the full output follows.
        """
        report = self.package_folder() / REPORT
        report.unlink(missing_ok=True)
        if not problems:
            return
        outcome = "only the CPU kernels" if self.extensions else "plain PyTorch"
        summary = [f"vit_adapter will compute with {outcome}.", *(what for what, _ in problems)]
        summary += ["Fix the cause, then run `pip install --no-build-isolation -e .` again."]
        text = "\n".join([*summary, "", *(output for _, output in problems)])
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(text, encoding="utf-8")
        print("\n".join(summary), file=sys.stderr)


def cause(error: Exception, output: str) -> str:
    """Returns the cause in one line: the compiler's first error, or the shortened exception."""
    for line in output.splitlines():
        if " error:" in line:
            return line.strip()
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:120]} ... {text[-60:]}"


def remove_extension(folder: Path) -> None:
    """Deletes an extension of an earlier build from a folder, which would still be imported."""
    for path in folder.glob("_C.*"):
        path.unlink()


class BuildPython(build_py):
    """Adds the configs to the package, unless it is used from the source tree, which has them."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "vit_adapter" / "configs"
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / "configs", target, ignore=skipped, dirs_exist_ok=True)
        elif requested_build() == "none":
            remove_extension(ROOT / PACKAGE)


def read_version() -> str:
    """Returns ``__version__`` of the package without importing it."""
    text = (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


def pinned_torch() -> str:
    """Returns the minor version of the installed PyTorch if it is to be pinned, otherwise ""."""
    if os.environ.get("VIT_ADAPTER_PIN_TORCH") != "1":
        return ""
    return ".".join(importlib.metadata.version("torch").split(".")[:2])


PINNED_TORCH = pinned_torch()

setup(
    name="vit-adapter-detectron2",
    version=read_version() + (f"+torch{PINNED_TORCH}" if PINNED_TORCH else ""),
    description="ViT-Adapter for Detectron2: plain Vision Transformers for dense prediction",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10",
    install_requires=INSTALL_REQUIRES + ([f"torch=={PINNED_TORCH}.*"] if PINNED_TORCH else []),
    extras_require=EXTRAS_REQUIRE,
    package_dir={"": str(PACKAGE.parent)},
    packages=find_packages(str(PACKAGE.parent), include=["vit_adapter*"]),
    package_data={"vit_adapter.data.semantic.sets": ["*.json"]},
    ext_modules=[] if requested_build() == "none" else [Extension("vit_adapter._C", [])],
    cmdclass={"build_py": BuildPython, "build_ext": BuildKernels},
    zip_safe=False,
)
