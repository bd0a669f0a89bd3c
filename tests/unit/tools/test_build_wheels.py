"""tools/build_wheels.py: what it accepts as a wheel, and how it fails."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
from tool_files import load_tool

tool = load_tool("build_wheels")
COMPLETE = [
    "vit_adapter/_C.cpython-311-x86_64-linux-gnu.so",
    "vit_adapter/py.typed",
    "vit_adapter/configs/common/train.py",
    "vit_adapter/install_detectron2/__main__.py",
    "vit_adapter-0.1.dist-info/licenses/LICENSE",
    "vit_adapter-0.1.dist-info/licenses/NOTICE",
    "vit_adapter.libs/libgomp-24e2ab19.so.1.0.0",
]


def make_wheel(folder: Path, names: list[str]) -> Path:
    wheel = folder / "vit_adapter-0.1.whl"
    with zipfile.ZipFile(wheel, "w") as content:
        for name in names:
            content.writestr(name, "")
    return wheel


def test_a_complete_wheel(tmp_path: Path) -> None:
    tool.check_content(make_wheel(tmp_path, COMPLETE))


@pytest.mark.parametrize("name", COMPLETE[:-1])
def test_a_missing_part_is_named(tmp_path: Path, name: str) -> None:
    names = [other for other in COMPLETE if other != name]
    with pytest.raises(tool.WheelError, match="has no ") as caught:
        tool.check_content(make_wheel(tmp_path, names))
    (part,) = str(caught.value).partition("has no ")[2].rstrip(".").split(", no ")
    assert part.rstrip(".") in name


@pytest.mark.parametrize("library", ["libtorch_cpu.so", "libc10-fb28e8a2.so"])
def test_libraries_of_pytorch_are_refused(tmp_path: Path, library: str) -> None:
    with pytest.raises(tool.WheelError, match=f"contains libraries of PyTorch: .*{library}"):
        tool.check_content(make_wheel(tmp_path, [*COMPLETE, f"vit_adapter.libs/{library}"]))


def test_a_failing_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(tool.WheelError, match=f"{Path(sys.executable).name} -c .*failed"):
        tool.run(sys.executable, "-c", "raise SystemExit(3)", folder=tmp_path)


def test_commands_run_without_the_source_tree(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    program = "import os; assert 'PYTHONPATH' not in os.environ and os.environ['ONE'] == '1'"
    tool.run(sys.executable, "-c", program, folder=tmp_path, ONE="1")


def test_the_next_version_follows_a_failure(tmp_path: Path, monkeypatch, capsys) -> None:
    def build_wheel(torch: str, scratch: Path) -> Path:
        if torch == "2.4":
            raise tool.WheelError("it does not compile")
        return make_wheel(scratch, COMPLETE)

    monkeypatch.setattr(tool, "build_wheel", build_wheel)
    monkeypatch.setattr(tool, "try_wheel", lambda wheel, scratch: None)
    assert tool.main(["2.4", "2.14", "--output", str(tmp_path / "dist")]) == 1
    assert "torch 2.4: it does not compile" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["vit_adapter-0.1.whl"]
    assert tool.main(["2.14", "--output", str(tmp_path / "dist")]) == 0
