"""The commands that fix known failures, for this interpreter and this copy of the project."""

import shlex
import sys
from pathlib import Path

__all__ = [
    "REPORT_IT",
    "install_detectron2",
    "install_package",
    "install_pytorch",
    "rebuild",
    "source_root",
]

REPORT_IT = "Report it with the output of `python -m vit_adapter.doctor --json`."


def source_root() -> Path | None:
    """Return the root folder of the source tree that this package runs from, if it does."""
    folders = Path(__file__).resolve().parents
    root = folders[4] if len(folders) > 4 else None
    return root if root is not None and (root / "setup.py").is_file() else None


def install_package(*requirements: str) -> str:
    """Return the command that installs packages into this environment."""
    return shlex.join([sys.executable, "-m", "pip", "install", *requirements])


def install_pytorch() -> str:
    """Return the command that installs PyTorch and what builds the extension."""
    return install_package("torch", "torchvision", "setuptools>=77")


def rebuild(variables: str = "") -> str:
    """Return the command that builds the extension again.

    Args:
        variables: assignments in front of the command, such as ``"VIT_ADAPTER_BUILD=cuda"``.
    """
    root = source_root()
    place = f"cd {shlex.quote(str(root))} &&" if root else "In the project's source folder:"
    command = install_package("--no-build-isolation", "-e", ".")
    return " ".join(filter(None, [place, variables, command]))


def install_detectron2() -> str:
    """Return the command that installs Detectron2."""
    return shlex.join([sys.executable, "-m", "vit_adapter.install_detectron2"])
