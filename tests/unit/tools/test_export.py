"""The program that exports models."""

from pathlib import Path
from types import ModuleType

import pytest
from tool_files import load_tool

CONFIG = ["--config-file", "quick_start/upernet_vit_adapter_tiny_scratch"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("export")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "model.txt"], "OUT must end in .pt2 or .onnx, got"),
        (["--output", "model.onnx", "--format", "aoti"], "OUT must end in .pt2, got"),
        (["--output", "model.onnx"], "its weights would be random; give --weights FILE"),
        (
            ["--output", "model.onnx", "--backbone-only", "--check-data"],
            "--check-data evaluates predictions, but --backbone-only exports feature maps",
        ),
    ],
)
def test_refuses(
    tool: ModuleType, tmp_path: Path, monkeypatch, caplog, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool.logger, "handlers", [caplog.handler])  # others may not propagate
    assert tool.main([*CONFIG, *arguments]) == 2
    assert message in caplog.text
    assert not list(tmp_path.iterdir())


def test_the_description_of_another_export_is_kept(
    tool: ModuleType, tmp_path: Path, monkeypatch, caplog
) -> None:
    (tmp_path / "model.onnx.json").write_text("{}")
    monkeypatch.setattr(tool.logger, "handlers", [caplog.handler])
    assert tool.main([*CONFIG, "--output", str(tmp_path / "model.onnx")]) == 2
    assert "model.onnx.json exists; choose another name, or replace it with --force" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx.json"]
