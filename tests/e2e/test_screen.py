"""The commands show no warnings of libraries, about which users can do nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# Python's warnings, and those of PyTorch's own log
LIBRARY_WARNING = re.compile(r"^.*(?:Warning: |^[WE]\d{4} ).*$", re.MULTILINE)


def screen(project_root: Path, *command: str) -> str:
    """Both output streams of a program that succeeds."""
    result = subprocess.run(
        [sys.executable, *command],
        cwd=project_root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.mark.parametrize("line", ["a.py:1: FutureWarning: old", "W1129 14:44:48.889 1] No CUDA"])
def test_warnings_are_detected(line: str) -> None:
    assert LIBRARY_WARNING.findall(f"first\n{line}\nlast") == [line]


def test_training_shows_no_warning_of_a_library(project_root: Path, command: list[str]) -> None:
    text = screen(project_root, "train_net.py", *command, "train.max_iter=1")
    assert "Results:" in text
    assert LIBRARY_WARNING.findall(text) == []


def test_drawing_shows_no_warning_of_a_library(project_root: Path) -> None:
    text = screen(project_root, "projects/ViTAdapter/tools/demo.py", "--help")
    assert LIBRARY_WARNING.findall(text) == []
