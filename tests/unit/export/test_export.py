"""Exporting models to files."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import make_segmentor
from torch import nn

from vit_adapter.backbone.vit_parts import attend
from vit_adapter.config.errors import UsageError
from vit_adapter.export.export import description_path, export_model
from vit_adapter.export.formats import FORMATS, forbidden_operators
from vit_adapter.export.models import exportable
from vit_adapter.export.shapes import ImageShapes
from vit_adapter.ops.exporting import exporting

ANY = {"dynamic_batch": True, "dynamic_size": True}


def test_any_shape_as_a_program(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    core = exportable(make_segmentor())
    check = export_model(
        core, ImageShapes(1, 64, 96, **ANY), path, file_format="pt2", description={"a": 1}
    )
    assert check.shapes == [(1, 3, 64, 96), (1, 3, 96, 160), (3, 3, 64, 96)]
    assert check.largest < 1e-5
    described = json.loads(description_path(path).read_text())
    assert described["a"] == 1
    assert described["check"]["differences"] == {"logits": check.largest}
    run = FORMATS["pt2"].load(path)
    with pytest.raises(Exception, match="(?i)32"):
        run(torch.rand(1, 3, 80, 64))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.pt2", "model.pt2.json"]


def test_rotary_positions_follow_the_size(tmp_path: Path) -> None:
    core = exportable(make_segmentor(vit="dinov3"), backbone_only=True)
    shapes, path = ImageShapes(1, 64, 96, **ANY), tmp_path / "model.pt2"
    check = export_model(core, shapes, path, file_format="pt2", description={})
    assert len(check.shapes) == 3 and check.largest < 1e-5


@pytest.mark.slow
def test_any_shape_as_onnx(tmp_path: Path) -> None:
    for package in FORMATS["onnx"].packages:
        pytest.importorskip(package)
    path = tmp_path / "model.onnx"
    core = exportable(make_segmentor("full"), backbone_only=True)
    check = export_model(
        core, ImageShapes(1, 64, 96, **ANY), path, file_format="onnx", description={}
    )
    assert check.largest < 1e-5
    assert forbidden_operators(path) == {}
    run = FORMATS["onnx"].load(path)
    for size in ((80, 96), (65, 64), (95, 95)):
        with pytest.raises(Exception, match="(?i)onnx"):
            run(torch.rand(1, 3, *size))


class BiasedAttention(nn.Module):
    """Attention with a bias, as in BEiT."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(2, 9, 9))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return attend(images, 2, self.bias)


def test_attention_with_a_bias_as_onnx(tmp_path: Path) -> None:
    for package in FORMATS["onnx"].packages:
        pytest.importorskip(package)
    model, tokens = BiasedAttention(), torch.randn(1, 9, 24)
    path = tmp_path / "model.onnx"
    with torch.no_grad(), exporting():
        FORMATS["onnx"].write(torch.export.export(model, (tokens,)), ["attended"], path)
        torch.testing.assert_close(list(FORMATS["onnx"].load(path)(tokens)), [model(tokens)])


class Sampler(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        grid = torch.zeros(1, 2, 2, 2)
        return nn.functional.grid_sample(images, grid, align_corners=False)


@pytest.mark.slow
def test_grid_sample_in_onnx_is_refused(tmp_path: Path) -> None:
    for package in FORMATS["onnx"].packages:
        pytest.importorskip(package)
    program = torch.export.export(Sampler(), (torch.rand(1, 3, 4, 4),), strict=False)
    with pytest.raises(UsageError, match="has 1 GridSample"):
        FORMATS["onnx"].write(program, ["output"], tmp_path / "model.onnx")


def test_a_file_with_other_numbers_does_not_appear(tmp_path: Path, monkeypatch) -> None:
    core = exportable(make_segmentor(), backbone_only=True)
    load = FORMATS["pt2"].load

    def load_wrong(path: Path):
        run = load(path)
        return lambda images: [output + (output == output.max()) for output in run(images)]

    monkeypatch.setitem(
        FORMATS, "pt2", type(FORMATS["pt2"])(".pt2", (), FORMATS["pt2"].write, load_wrong)
    )
    with pytest.raises(UsageError, match="computes other numbers than the model.*res2 differs by"):
        export_model(
            core, ImageShapes(1, 64, 64), tmp_path / "m.pt2", file_format="pt2", description={}
        )
    assert not list(tmp_path.iterdir())


def test_beit_has_one_size(tmp_path: Path) -> None:
    core = exportable(make_segmentor(vit="beit"))
    with pytest.raises(UsageError, match="any size: its ViT resizes a table.*--dynamic-size"):
        export_model(
            core,
            ImageShapes(1, 64, 64, dynamic_size=True),
            tmp_path / "m.pt2",
            file_format="pt2",
            description={},
        )
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], packages=("absent_package",)))
    with pytest.raises(UsageError, match=r"needs the package absent_package: pip install onnx"):
        export_model(
            exportable(make_segmentor()),
            ImageShapes(1, 64, 64),
            tmp_path / "m.onnx",
            file_format="onnx",
            description={},
        )


class Silent(nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.relu(images.mean((1, 2)) - 1e6), images.mean((1, 2))


def test_outputs_that_are_always_0_are_named(tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("vit_adapter"), "propagate", True)
    core = Silent()
    core.output_names = ("boxes", "means")
    shapes = ImageShapes(1, 64, 96)
    path = tmp_path / "model.pt2"
    check = export_model(core, shapes, path, file_format="pt2", description={})
    assert check.empty == ("boxes",)
    assert "says little about boxes. Give --check-data" in caplog.text
