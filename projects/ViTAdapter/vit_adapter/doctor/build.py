"""The compiled extension: whether it is there, what it was built for, and why not."""

import shutil
import sys
import warnings
from pathlib import Path

from vit_adapter.doctor import remedies
from vit_adapter.doctor.section import Options, Section

__all__ = ["check"]

PACKAGE = Path(__file__).parents[1]
REPORT = "build_report.txt"
COMPILERS = ("c++", "g++", "clang++", "cl")


def check(options: Options) -> Section:
    """Describe the extension, and find out why it is missing or does not load."""
    from vit_adapter.ops import extension_info

    with warnings.catch_warnings():  # the same text is a finding
        warnings.simplefilter("ignore")
        info = extension_info()
    files = sorted(path.name for path in PACKAGE.glob("_C.*"))
    section = Section({key: info[key] for key in ("built", "torch", "compiler", "cuda")})
    section.facts |= {"cuda architectures": info["cuda_architectures"], "files": files}
    if info["built"]:
        _check_cuda(section)
    elif "was not built" not in info["problem"]:
        reason = info["problem"].partition("; reinstall")[0]
        section.fault(f"{reason}. Plain PyTorch is used, which is slower.", remedies.rebuild())
    elif files:
        section.fault(
            f"{', '.join(files)} was built for another Python than this one, "
            f"{sys.implementation.cache_tag}. Plain PyTorch is used, which is slower.",
            remedies.rebuild(),
        )
    else:
        _explain_absence(section)
    return section


def _explain_absence(section: Section) -> None:
    """Add the cause from the report of the build, if there is one."""
    what = "The operator was not compiled: plain PyTorch is used, which is slower."
    report = PACKAGE / REPORT
    if report.is_file():
        summary = report.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        section.facts["build report"] = str(report)
        what += " " + " ".join(summary.splitlines()[1:-1])  # without the outcome and the advice
    fix = remedies.rebuild("VIT_ADAPTER_BUILD=cpu")
    if not any(map(shutil.which, COMPILERS)):
        what += " There is no C++ compiler."
        fix = f"Install one (Debian, Ubuntu: `apt install g++`), then: {fix}"
    section.warn(what, fix)


def _check_cuda(section: Section) -> None:
    """Warn about a GPU for which no kernels were built."""
    import torch

    if section.facts["cuda"] or not torch.cuda.is_available():
        return
    fix = remedies.rebuild("VIT_ADAPTER_BUILD=cuda")
    if torch.version.cuda is None:
        return  # ROCm, for which there are no kernels
    if shutil.which("nvcc") is None:
        fix = f"Install the CUDA toolkit {torch.version.cuda}, and set CUDA_HOME to it. Then: {fix}"
    section.warn(
        "The extension was built without CUDA: on the GPU the operator is computed by plain "
        "PyTorch, which is slower.",
        fix,
    )
