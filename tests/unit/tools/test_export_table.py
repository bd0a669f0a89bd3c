"""The program that tries every kind of export."""

from dataclasses import replace

import pytest
import torch
from tool_files import load_tool

from vit_adapter.export.checks import check_run
from vit_adapter.export.models import exportable
from vit_adapter.export.shapes import ImageShapes

tool = load_tool("export_table")


def test_a_refusal_is_written_in_every_format(capsys) -> None:
    assert tool.main(["--only", "beit, full", "--variants", "dynamic size"]) == 0
    head, _, row = capsys.readouterr().out.strip().splitlines()
    assert head == "| model | pt2, dynamic size | onnx, dynamic size | aoti, dynamic size |"
    assert row.count("refused: the model cannot be exported for images of any size: its ViT") == 3


def test_a_file_is_compared(capsys) -> None:
    arguments = ["--only", "deit, light", "--variants", "dynamic size", "--formats", "pt2"]
    assert tool.main(arguments) == 0
    row = capsys.readouterr().out.strip().splitlines()[-1]
    assert float(row.split("|")[2]) < 1e-5


def test_a_failure_is_written_and_the_others_go_on(capsys, monkeypatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("on purpose")

    broken = replace(tool.FORMATS["onnx"], write=fail)
    monkeypatch.setitem(tool.FORMATS, "onnx", broken)
    arguments = ["--only", "deit, light", "--variants", "static", "--formats", "onnx", "pt2"]
    assert tool.main(arguments) == 1
    *_, onnx, pt2, _ = capsys.readouterr().out.strip().splitlines()[-1].split("|")
    assert onnx.strip() == "FAILED: RuntimeError"
    assert float(pt2) < 1e-5


def test_a_file_with_other_numbers_is_a_failure(capsys, monkeypatch) -> None:
    wrong = replace(tool.FORMATS["pt2"], load=lambda path: lambda images: [images] * 4)
    monkeypatch.setitem(tool.FORMATS, "pt2", wrong)
    arguments = ["--only", "deit, light", "--variants", "static", "--formats", "pt2"]
    assert tool.main(arguments) == 1
    assert "FAILED: the file computes other numbers than the model" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["mask_rcnn", "atss"])
@torch.no_grad()
def test_detectors_find_something(name: str) -> None:
    torch.manual_seed(0)
    core = exportable(tool.make_detector(name))
    side = core.shortest_side
    check = check_run(core, core, ImageShapes(1, side, side + 32))
    assert check.empty == ()
