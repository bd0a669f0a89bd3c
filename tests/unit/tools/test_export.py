"""The program that exports models."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tool_files import load_tool

TINY = ["model.backbone.vit.embed_dim=48", "model.backbone.vit.depth=1"]
TINY += ["model.backbone.interaction_indexes=[[0,0]]", "model.backbone.mode=light"]
CONFIG = ["--config-file", "quick_start/upernet_vit_adapter_tiny_scratch"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("export")


def test_writes_a_file_and_describes_it(tool: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    status = tool.main([*CONFIG, *TINY, "--output", str(path), "--size", "64", "80"])
    assert status == 0
    (logits,) = torch.export.load(path).module()(torch.zeros(1, 3, 64, 80))
    assert logits.shape == (1, 5, 64, 80)
    described = json.loads((tmp_path / "model.json").read_text())
    assert described["format"] == "pt2"
    assert described["classes"] == ["circle", "square", "triangle", "speckle", "stripes"]
    assert described["input"]["shape"] == [1, 3, 64, 80]
    assert described["input"]["channels"] == "RGB"
    assert described["input"]["pixel_mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert described["input"]["resize"]["name"] == "semantic_test"
    assert list(described["outputs"]) == ["logits"]
    assert described["check"]["largest"] <= 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "model.txt"], "OUT must end in .pt2 or .onnx, got"),
        (["--output", "model.onnx", "--format", "aoti"], "OUT must end in .pt2, got"),
        (["--output", "model.pt2", "--size", "70", "64", "--dynamic-size"], "multiples of 32"),
    ],
)
def test_refuses(
    tool: ModuleType, tmp_path: Path, monkeypatch, caplog, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tool.main([*CONFIG, *TINY, *arguments]) == 2
    assert message in caplog.text
    assert not list(tmp_path.iterdir())
