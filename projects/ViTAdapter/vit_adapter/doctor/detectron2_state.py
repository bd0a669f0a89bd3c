"""Detectron2: its version, its patches, and whether the project can be imported on top of it."""

import importlib
import importlib.metadata
import importlib.util
import re
import sys
import traceback
from pathlib import Path

from vit_adapter.doctor import remedies
from vit_adapter.doctor.environment import PACKAGES, can_import_torch
from vit_adapter.doctor.section import Options, Section
from vit_adapter.install_detectron2.installer import patched_version

__all__ = ["check"]

MODULES = ("config", "layers", "structures", "data", "modeling", "evaluation", "model_zoo")
# Aliases of Python types, which NumPy 1.24 removed, and a module that setuptools removed.
REMOVED_NAMES = re.compile(r"\bnp\.(?:bool|int|float|object|str)\b|^import pkg_resources", re.M)
PATCHED = re.compile(r"0\.6\+(patches|mends)\.")
REPOSITORY = "https://github.com/facebookresearch/detectron2"


def check(options: Options) -> Section:
    """Find Detectron2, import it, and import this project."""
    section = Section()
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:  # no origin: a folder without code
        section.facts["detectron2"] = "missing"
        what = "Detectron2 is not installed."
        if spec is not None and spec.submodule_search_locations:
            what += f" ({list(spec.submodule_search_locations)[0]} is a folder without its code.)"
        section.fault(what, remedies.install_detectron2())
        return section
    folder = Path(spec.origin).parent
    version = _version()
    section.facts["detectron2"] = f"{version} in {folder}"
    if not _check_patches(version, folder, section):
        return section
    if not can_import_torch():
        section.facts["imports"] = "left out: PyTorch cannot be imported"
        return section
    if _imports([f"detectron2.{name}" for name in MODULES], _reinstall(version), section):
        section.facts["compiled operators"] = _describe_compiled()
        _imports_project(section)
    return section


def _version() -> str:
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _reinstall(version: str) -> str:
    """Return the command that replaces this Detectron2."""
    uninstall = f"{sys.executable} -m pip uninstall -y detectron2"
    if PATCHED.match(version):
        return f"{uninstall} && {remedies.install_detectron2()}"
    source = remedies.install_package("--no-build-isolation", f"git+{REPOSITORY}")
    return f"{uninstall} && {source}"


def _check_patches(version: str, folder: Path, section: Section) -> bool:
    """Add the state of the patches; return whether Detectron2 can work with current libraries."""
    if PATCHED.match(version):
        section.facts["patches"] = version.partition("+")[2]
        newest = patched_version()
        if newest != version:
            section.warn(
                f"Detectron2 {version} has older patches than those of this project ({newest}).",
                remedies.install_detectron2(),
            )
        return True
    left = [
        f"{path.relative_to(folder)}: {found[0]}"
        for path in sorted(folder.rglob("*.py"))
        if (found := REMOVED_NAMES.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    section.facts["patches"] = "none"
    if not left or not version.startswith("0."):
        return True
    names = f"{len(left)} files use names that NumPy or setuptools removed, such as {left[0]}"
    if version.startswith("0.6"):
        section.fault(
            f"Detectron2 {version} is not patched: {names}.",
            f"{sys.executable} -m pip uninstall -y detectron2 && {remedies.install_detectron2()}",
        )
        return False
    section.warn(f"Detectron2 {version}: {names}.", _reinstall(version))
    return True


def _imports(modules: list[str], fix: str, section: Section) -> bool:
    """Import modules; return whether all can be imported, and add a fault for the first other."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # of any kind, from any of its own imports
            what = f"{name} cannot be imported: {_first_line(error)}."
            if "undefined symbol" in str(error):
                what += " Its compiled part was built for another PyTorch."
            if isinstance(error, ModuleNotFoundError) and error.name and error.name in PACKAGES:
                fix = remedies.install_package(PACKAGES[error.name])
            section.fault(what, fix, traceback.format_exc())
            return False
    return True


def _imports_project(section: Section) -> None:
    """Import every public name of the package."""
    package = importlib.import_module("vit_adapter")
    try:
        for name in package.__all__:
            getattr(package, name)
    except Exception as error:
        what = f"vit_adapter.{name} cannot be imported: {_first_line(error)}."
        section.fault(what, remedies.REPORT_IT, traceback.format_exc())
    else:
        section.facts["vit_adapter on detectron2"] = "can be imported"


def _describe_compiled() -> str:
    try:
        importlib.import_module("detectron2._C")
    except ImportError:
        return "none (nothing here needs them)"
    return "present"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
