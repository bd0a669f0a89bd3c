"""The layout tables in the project's README have a row for every part of the repository."""

import os
import re
from collections import Counter
from pathlib import Path

import vit_adapter

PROJECT = Path(vit_adapter.__file__).parents[1]
ROOT = PROJECT.parents[1]

FILES = ("vit_adapter/[!_]*.py", "tools/*.*", "docs/*.md", "notebooks/*.ipynb")
# A folder is a part if it holds such files itself.
FILES_OF_FOLDERS = (
    "projects/ViTAdapter/vit_adapter/*/**/*.py",
    "configs/common/**/*.py",
    "csrc/**/*.*",
    "tests/*/*.py",
)


def parts() -> set[str]:
    """Paths of all parts, relative to the project; folders end in a slash."""
    files = {path for pattern in FILES for path in PROJECT.glob(pattern)}
    folders = {path.parent for pattern in FILES_OF_FOLDERS for path in ROOT.glob(pattern)}
    return {os.path.relpath(path, PROJECT) for path in files} | {
        f"{os.path.relpath(path, PROJECT)}/" for path in folders
    }


def rows() -> list[str]:
    """What the first column of the tables holds."""
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([^`]+)` \|", readme.partition("\n## Layout\n")[2], re.MULTILINE)


def test_every_part_has_a_row() -> None:
    missing = sorted(parts() - set(rows()))
    assert not missing, f"add to the tables of {PROJECT / 'README.md'}, Layout: {missing}"


def test_every_row_is_a_part() -> None:
    assert not set(rows()) - parts()
    assert not [row for row, count in Counter(rows()).items() if count > 1]
