"""The program that exports models."""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from tool_files import load_tool

from vit_adapter import LazyPredictor

NAME = "quick_start/upernet_vit_adapter_tiny_scratch"
CONFIG = ["--config-file", NAME]


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


def test_the_size_that_is_taken_is_said(
    tool: ModuleType, tmp_path: Path, monkeypatch, caplog, capsys
) -> None:
    monkeypatch.setattr(tool.logger, "handlers", [caplog.handler])
    monkeypatch.setattr(tool, "export_model", lambda *arguments, **options: None)
    model = LazyPredictor(NAME, overrides=["train.device=cpu"]).unwrapped_model
    torch.save({"model": model.state_dict()}, tmp_path / "random.pth")
    command = [*CONFIG, "--weights", str(tmp_path / "random.pth")]
    command += ["--output", str(tmp_path / "model.pt2")]
    assert tool.main([*command, "--size", "64", "96"]) == 0
    assert "model.pt2, for images [1, 3, 64, 96]" in capsys.readouterr().out
    assert "Without --size" not in caplog.text
    assert tool.main(command) == 0
    assert "model.pt2, for images [1, 3, 512, 512]" in capsys.readouterr().out
    assert "Without --size, the file is for images of 512 x 512 pixels" in caplog.text
    assert "resizes test images by {'name': 'semantic_test'" in caplog.text
