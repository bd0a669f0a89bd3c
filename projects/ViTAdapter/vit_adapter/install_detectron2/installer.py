"""Installs Detectron2 v0.6, patched for current libraries, unless a Detectron2 is already there.

An existing Detectron2 that ``import detectron2`` finds, such as a build of its main branch, is kept
as it is. Otherwise pip downloads the source archive of v0.6 from the package index. The archive is
checked against its SHA-256, patched as listed in :mod:`patches`, and installed with pip
into the running interpreter. Nothing is installed unless every patch applies. The compiled part of
Detectron2 (rotated boxes, its own deformable convolution, a faster COCO evaluation) is left out:
this project does not need it.

Usage::

    python -m vit_adapter.install_detectron2 [--archive pb1-detectron2-0.6.tar.gz]
    python -m vit_adapter.install_detectron2 --wheel-dir FOLDER

The second command only builds the wheel, for a machine without network.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from vit_adapter.install_detectron2.patches import ADDED_FILES, PATCHES, Patch

ARCHIVE_REQUIREMENT = "pb1-detectron2==0.6"
ARCHIVE_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
OLDEST_SETUPTOOLS = 77  # as in pyproject.toml; older versions need the package wheel
REPOSITORY = "https://github.com/facebookresearch/detectron2"
# Versions that this tool installs start with the first prefix; it used to write the second.
VERSION_PREFIXES = ("0.6+patches.", "0.6+mends.")
# Aliases of Python types, which NumPy 1.24 removed. None may remain: Detectron2 silently treats
# some of the AttributeErrors that they cause as "nothing to show".
NUMPY_ALIASES = re.compile(r"\b(?:np|numpy)\.(?:bool|int|float|complex|object|str|long|unicode)\b")
CHANGE_NOTICE = "# Changed for current libraries by ViT-Adapter's install_detectron2.\n"

# Detectron2's setup.py installs these small projects as detectron2.projects.<name>.
PROJECTS: Mapping[str, str] = {
    "point_rend": "projects/PointRend/point_rend",
    "deeplab": "projects/DeepLab/deeplab",
    "panoptic_deeplab": "projects/Panoptic-DeepLab/panoptic_deeplab",
}

# v0.6 pins black and iopath to versions that are too old, and lists helpers of Caffe2 (future,
# pydot), which nothing uses.
RUNTIME_DEPENDENCIES: Sequence[str] = (
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
)


class InstallError(RuntimeError):
    """Detectron2 could not be installed; the message says why and what to do."""


def patched_version(
    patches: Sequence[Patch] = PATCHES, added: Mapping[str, str] = ADDED_FILES
) -> str:
    """Returns the version of the patched v0.6, which changes whenever a patch changes."""
    changes = [(patch.file, patch.old, patch.new) for patch in patches], sorted(added.items())
    digest = hashlib.sha256(repr(changes).encode()).hexdigest()
    return f"{VERSION_PREFIXES[0]}{digest[:8]}"


def find_installed() -> tuple[str, str] | None:
    """Returns (version, folder) of what ``import detectron2`` would find, or None."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:  # no origin: a folder without code
        return None
    try:
        version = importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown version"
    return version, str(Path(spec.origin).parent)


def check_setuptools() -> None:
    """Raises InstallError unless this interpreter has a setuptools that can build the wheel."""
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    if version == "none" or int(version.split(".")[0]) < OLDEST_SETUPTOOLS:
        raise InstallError(
            f"setuptools>={OLDEST_SETUPTOOLS} is needed, found {version}. Run "
            f"`{sys.executable} -m pip install 'setuptools>={OLDEST_SETUPTOOLS}'`, then try again."
        )


def verify_archive(archive: Path, sha256: str = ARCHIVE_SHA256) -> None:
    """Raises InstallError unless the file ``archive`` exists and has the SHA-256 ``sha256``."""
    if not archive.is_file():
        raise InstallError(f"{archive} is not a file. Give the path of the source archive.")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != sha256:
        raise InstallError(
            f"{archive} has SHA-256 {digest}, expected {sha256}: it is a different archive, or an "
            "incomplete one. Nothing was installed; download it again."
        )


def download_archive(folder: Path) -> Path:
    """Downloads the source archive of v0.6 into ``folder`` with pip and returns its path.

    pip itself checks the hash before it runs any code of the archive. To read the metadata it runs
    the archive's setup.py, which imports torch, so build isolation is turned off.
    """
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{ARCHIVE_REQUIREMENT} --hash=sha256:{ARCHIVE_SHA256}\n")
    options = ("--no-deps", "--no-binary", ":all:", "--no-build-isolation")
    try:
        run_pip("download", *options, "--dest", str(folder), "--requirement", str(requirement))
    except InstallError as error:
        raise InstallError(
            f"{error} Either install Detectron2 from its own repository ({REPOSITORY}) into this "
            "environment, or pass a copy of the archive with --archive, then try again."
        ) from error
    (archive,) = folder.glob("*.tar.gz")
    return archive


def extract_archive(archive: Path, folder: Path) -> Path:
    """Unpacks the .tar.gz ``archive`` below ``folder``; returns the folder above ``detectron2/``.

    Only regular files are written, because no link is needed. Entries that point outside ``folder``
    are refused. (The filters of ``tarfile`` do the same, but Python 3.11 has them only since
    3.11.4.)
    """
    root = folder.resolve()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                target = (root / member.name).resolve()
                if not target.is_relative_to(root):
                    raise tarfile.TarError(f"{member.name} points outside the target folder")
                if member.isfile():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(tar.extractfile(member).read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InstallError(f"{archive} cannot be unpacked: {error}. Download it again.") from error
    packages = list(folder.glob("*/detectron2/__init__.py"))
    if len(packages) != 1:
        raise InstallError(f"{archive} contains {len(packages)} detectron2 packages, expected 1.")
    return packages[0].parent.parent


def stage_python_part(tree: Path, stage: Path) -> Path:
    """Copies the Python part of Detectron2's source tree to ``stage``; returns the package folder.

    The C++ sources are left out. Configs and projects, where the tree has them, go where
    Detectron2's own setup.py puts them: ``detectron2/model_zoo/configs`` and
    ``detectron2/projects/<name>``.
    """
    package = stage / "detectron2"
    skipped = shutil.ignore_patterns("csrc", "__pycache__", "*.so", "*.pyc")
    shutil.copytree(tree / "detectron2", package, ignore=skipped)
    if (tree / "configs").is_dir():
        shutil.copytree(tree / "configs", package / "model_zoo" / "configs", dirs_exist_ok=True)
    for name, source in PROJECTS.items():
        if (tree / source).is_dir():
            destination = package / "projects" / name
            shutil.copytree(tree / source, destination, ignore=skipped, dirs_exist_ok=True)
    if (tree / "LICENSE").is_file():
        shutil.copy(tree / "LICENSE", stage / "LICENSE")
    return package


def apply_patches(
    package: Path, patches: Sequence[Patch] = PATCHES, added: Mapping[str, str] = ADDED_FILES
) -> None:
    """Applies every patch to the folder ``package`` in place and adds the files that they need.

    Raises:
        InstallError: a file is missing, a patch's text does not occur exactly ``count`` times, or a
            name that NumPy has removed would remain. Nothing is written in that case.
    """
    texts: dict[str, str] = {}
    for patch in patches:
        path = package / patch.file
        if not path.is_file():
            raise InstallError(f"cannot patch detectron2/{patch.file}: it is not in this source.")
        text = texts.get(patch.file) or path.read_text(encoding="utf-8")
        found = text.count(patch.old)
        if found != patch.count:
            raise InstallError(
                f"cannot patch detectron2/{patch.file}: found {patch.old!r} {found} times, "
                f"not {patch.count}. This source is not Detectron2 v0.6; nothing was installed."
            )
        texts[patch.file] = text.replace(patch.old, patch.new)
    for name in added:
        if (package / name).exists():
            raise InstallError(f"detectron2/{name} is in this source and would be overwritten.")
    check_numpy_names(package, texts)
    for name, text in texts.items():
        (package / name).write_text(CHANGE_NOTICE + text, encoding="utf-8")
    for name, text in added.items():
        (package / name).write_text(text, encoding="utf-8")


def check_numpy_names(package: Path, patched: Mapping[str, str]) -> None:
    """Raises InstallError if the folder ``package`` still uses a name that NumPy has removed.

    Args:
        package: Detectron2's package folder.
        patched: name of a patched file below ``package`` -> its new text, checked in its place.
    """
    left = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        text = patched.get(name) or path.read_text(encoding="utf-8")
        lines = enumerate(text.splitlines(), start=1)
        left += [
            f"detectron2/{name}:{i}: {line.strip()}"
            for i, line in lines
            if NUMPY_ALIASES.search(line)
        ]
    if left:
        listed = "\n".join(left)
        raise InstallError(
            f"no patch covers these names, which NumPy has removed:\n{listed}\n"
            "This source is not Detectron2 v0.6; nothing was installed."
        )


def write_project_file(stage: Path, version: str) -> None:
    """Writes the pyproject.toml from which pip builds the staged package."""
    dependencies = ", ".join(f'"{requirement}"' for requirement in RUNTIME_DEPENDENCIES)
    (stage / "pyproject.toml").write_text(
        f"""[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "detectron2"
version = "{version}"
description = "Detectron2 v0.6: its Python part, changed for current libraries"
dependencies = [{dependencies}]

[project.urls]
Homepage = "{REPOSITORY}"

[tool.setuptools.packages.find]
include = ["detectron2*"]

[tool.setuptools.package-data]
"*" = ["*.yaml"]
"""
    )


def run_pip(*arguments: str) -> None:
    """Runs this interpreter's pip, which writes to the terminal; raises InstallError on failure."""
    command = [sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check"]
    if subprocess.run(command).returncode != 0:
        raise InstallError(f"`{' '.join(command)}` failed; see its output above.")


def build_wheel(tree: Path, folder: Path) -> Path:
    """Builds a wheel in ``folder`` from a patched copy of ``tree``, Detectron2's v0.6 sources."""
    stage = folder / "stage"
    apply_patches(stage_python_part(tree, stage))
    write_project_file(stage, patched_version())
    offline = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    run_pip("wheel", *offline, "--wheel-dir", str(folder / "wheel"), str(stage))
    (wheel,) = (folder / "wheel").glob("*.whl")
    return wheel


def wheel_from_archive(archive: Path, folder: Path) -> Path:
    """Checks and patches the source archive and builds a wheel; ``folder`` is scratch space."""
    verify_archive(archive)
    return build_wheel(extract_archive(archive, folder / "tree"), folder)


def install_archive(archive: Path, folder: Path) -> None:
    """Checks, patches and installs the source archive; ``folder`` is scratch space.

    The wheel is complete before pip installs it, and pip rolls back a failed installation, so the
    interpreter never keeps a partial copy.
    """
    wheel = wheel_from_archive(archive, folder)
    run_pip(
        "install", "--quiet", "--no-deps", "--no-index", "--root-user-action=ignore", str(wheel)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="install_detectron2", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--archive",
        type=Path,
        help="use this copy of the source archive instead of downloading it",
    )
    parser.add_argument(
        "--wheel-dir", type=Path, help="put the wheel into this folder and install nothing"
    )
    options = parser.parse_args(arguments)

    installed = find_installed()
    if installed is not None and options.wheel_dir is None:
        version, folder = installed
        outdated = version.startswith(VERSION_PREFIXES) and version != patched_version()
        if not outdated:
            print(f"Detectron2 {version} is installed in {folder}: nothing to do.")
            return 0
        print(f"Detectron2 {version} has older patches: installing {patched_version()}.")
    try:
        check_setuptools()
        with tempfile.TemporaryDirectory(prefix="detectron2-archive-") as name:
            archive = options.archive or download_archive(Path(name))
            if options.wheel_dir is not None:
                options.wheel_dir.mkdir(parents=True, exist_ok=True)
                wheel = wheel_from_archive(archive, Path(name))
                print("Built", shutil.copy(wheel, options.wheel_dir))
                return 0
            install_archive(archive, Path(name))
    except InstallError as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    print(
        f"Installed Detectron2 {patched_version()} ({len(PATCHES)} patches) for {sys.executable}."
    )
    return 0
