"""Python, the required packages, and where each was imported from."""

import importlib
import importlib.metadata
import os
import platform
import re
import site
import sys
import traceback
from pathlib import Path

from vit_adapter import __version__
from vit_adapter.doctor import remedies
from vit_adapter.doctor.section import Options, Section

__all__ = ["can_import_torch", "check"]

DISTRIBUTION = "vit-adapter-detectron2"

# Name of the module -> name for pip. PyTorch is first, because most of the others depend on it.
PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "timm": "timm",
    "scipy": "scipy",
    "PIL": "Pillow",
    "matplotlib": "matplotlib",
    "cv2": "opencv-python-headless",
    "pycocotools": "pycocotools",
    "shapely": "shapely",
    "fvcore": "fvcore",
    "iopath": "iopath",
    "omegaconf": "omegaconf",
    "hydra": "hydra-core",
    "cloudpickle": "cloudpickle",
    "safetensors": "safetensors",
    "tabulate": "tabulate",
    "termcolor": "termcolor",
    "tensorboard": "tensorboard",
    "tqdm": "tqdm",
    "yacs": "yacs",
}
# Only these are reported: others may hold passwords or tokens.
VARIABLES = re.compile(
    r"(VIT_ADAPTER|OMP|MKL|ONEDNN|DNNL|PYTORCH|TORCH|NCCL|FORCE_CUDA)(_\w+)?|CUDA_(HOME|VISIBLE_"
    r"DEVICES)|DETECTRON2_DATASETS|FVCORE_CACHE|HF_(HOME|HUB_CACHE|HUB_OFFLINE)|PYTHONPATH|TMPDIR"
)


def check(options: Options) -> Section:
    """Import every required package, and compare the versions with the declared ranges."""
    section = Section()
    section.facts = {
        "vit_adapter": f"{__version__} in {Path(__file__).parents[1]}",
        "python": f"{platform.python_version()}, {sys.executable}",
        "system": platform.platform(),
        "packages": {},
        "variables": {k: v for k, v in sorted(os.environ.items()) if VARIABLES.fullmatch(k)},
    }
    for module in PACKAGES:
        _check_package(module, section)
    _check_ranges(section)
    return section


def can_import_torch() -> bool:
    """Whether PyTorch can be imported; if not, this check reports why."""
    try:
        importlib.import_module("torch")
    except Exception:  # it may raise anything
        return False
    return True


def _check_package(module: str, section: Section) -> None:
    """Import a package; add its version and folder, or what is wrong."""
    name = PACKAGES[module]
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            torch = name in ("torch", "torchvision")
            fix = remedies.install_pytorch() if torch else remedies.install_package(name)
            section.fault(f"{name} is not installed.", fix)
        elif error.name == "torch":  # reported under its own name
            section.facts["packages"][module] = "needs torch"
        else:
            _add_broken(module, error, section)
        return
    except Exception as error:  # a package may raise anything
        _add_broken(module, error, section)
        return
    folder = str(Path(imported.__file__ or "").parent)
    version = getattr(imported, "__version__", None) or _installed_version(name)
    section.facts["packages"][module] = f"{version} in {folder}"
    user = site.getusersitepackages()
    if os.path.isdir(user) and Path(folder).is_relative_to(user) and _is_environment():
        section.warn(
            f"{module} comes from {user}, not from this environment.",
            "Set PYTHONNOUSERSITE=1, and install what is then missing into the environment.",
        )


def _add_broken(module: str, error: Exception, section: Section) -> None:
    """Add a fault for a package that is installed but cannot be imported."""
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    fix = remedies.install_package("--force-reinstall", "--no-deps", PACKAGES[module])
    if "torchvision::" in str(error):
        fix = remedies.install_package("--upgrade", "torch", "torchvision")
        first_line += " (this torchvision was made for another torch)"
    elif module == "cv2" and "lib" in first_line:
        pip = remedies.install_package("opencv-python-headless")
        fix = f"{sys.executable} -m pip uninstall -y opencv-python opencv-python-headless && {pip}"
    elif isinstance(error, ModuleNotFoundError) and error.name:
        fix = remedies.install_package(error.name.partition(".")[0])
    section.fault(f"{module} cannot be imported: {first_line}.", fix, traceback.format_exc())


def _check_ranges(section: Section) -> None:
    """Compare the installed versions with those that the project declares."""
    try:
        from packaging.requirements import Requirement

        declared = importlib.metadata.requires(DISTRIBUTION) or []
    except ImportError:  # including: the project is not installed, only on the path
        section.facts["declared ranges"] = "unknown: the project is not installed by pip"
        return
    for requirement in map(Requirement, declared):
        version = _installed_version(requirement.name)
        if requirement.marker is not None or version == "unknown version":
            continue  # optional, or reported above
        if not requirement.specifier.contains(version, prereleases=True):
            section.fault(
                f"{requirement.name} {version} is installed, but {requirement} is needed.",
                remedies.install_package(str(requirement)),
            )


def _installed_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _is_environment() -> bool:
    """Whether this Python belongs to a virtual or conda environment."""
    return sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ
