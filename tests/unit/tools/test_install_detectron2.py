"""tools/install_detectron2.py runs before vit_adapter and its dependencies are installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[3] / "projects" / "ViTAdapter" / "tools" / "install_detectron2.py"


def test_it_needs_only_the_standard_library(tmp_path: Path) -> None:
    # -I ignores PYTHONPATH, -S leaves the installed packages out.
    command = [sys.executable, "-I", "-S", str(TOOL), "--archive", "none.tar.gz"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert "install_detectron2: setuptools>=77 is needed, found none." in result.stderr
