"""``python -m vit_adapter.doctor`` as a whole: here, and in environments without some packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import detectron2
import pytest
import torch

import vit_adapter

pytestmark = [pytest.mark.e2e]

PROJECT = Path(vit_adapter.__file__).parents[1]


def examine(python: Path, output: Path) -> tuple[int, dict]:
    """Run the doctor; return its exit status and its JSON."""
    command = [str(python), "-m", "vit_adapter.doctor", "--quick", "--json", "--output"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, str(output)], env=environment, cwd=output, capture_output=True, text=True
    )
    assert result.stderr == ""
    return result.returncode, json.loads(result.stdout)


def environment_without(name: str, folder: Path) -> Path:
    """Make a virtual environment with the packages of this one except some; return its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    packages = folder / "packages"
    packages.mkdir()
    for source in {Path(module.__file__).parents[1] for module in (torch, detectron2)}:
        for path in source.iterdir():
            if not path.name.startswith((f"{name}-", "__")) and path.name != name:
                link = packages / path.name
                link.exists() or link.symlink_to(path)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(f"{packages}\n")
    return python


def faults(content: dict) -> dict[str, list[str]]:
    """The faults and their fixes, by check."""
    return {
        name: [text for f in section["findings"] if f["kind"] == "fault" for text in f.values()]
        for name, section in content.items()
        if name != "fine" and any(f["kind"] == "fault" for f in section["findings"])
    }


def test_here_nothing_is_wrong(tmp_path):
    status, content = examine(Path(sys.executable), tmp_path)
    assert faults(content) == {}
    assert status == 0 and content["fine"] is True
    assert "cpu float32" in content["self_test"]["facts"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="makes symbolic links")
def test_without_detectron2(tmp_path):
    python = environment_without("detectron2", tmp_path / "env")
    status, content = examine(python, tmp_path)
    assert status == 1 and content["fine"] is False
    (texts,) = faults(content).values()
    assert "Detectron2 is not installed." in texts
    assert f"{python} -m vit_adapter.install_detectron2" in texts


@pytest.mark.skipif(sys.platform == "win32", reason="makes symbolic links")
def test_without_torch(tmp_path):
    python = environment_without("torch", tmp_path / "env")
    status, content = examine(python, tmp_path)
    assert status == 1
    assert list(faults(content)) == ["environment"]
    (finding,) = content["environment"]["findings"]
    assert finding["what"] == "torch is not installed."
    assert finding["fix"] == f"{python} -m pip install torch torchvision 'setuptools>=77'"
    assert content["build"]["facts"] == {"left out": "PyTorch cannot be imported"}
