"""Names, shapes and counts of parameters against the original's lists and the published counts.

Published are the parameters, in millions, of Mask R-CNN with ViT-Adapter, with the plain ViT and
with ViTDet, and of the ViT-Adapter backbones alone (arXiv 2205.08534, tables 1 and 10).
"""

import json
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
import torch
from torch import nn

from vit_adapter import PlainViT, ViTAdapter, ViTBaseline
from vit_adapter.checkpoint.original import build_backbone, convert_state_dict

FOLDER = Path(__file__).parent / "golden"
KEY_FILES = sorted(FOLDER.glob("keys_*.json"))

# width, depth, heads, deformable heads, deform ratio, pre-training image side
SIZES = {
    "T": (192, 12, 3, 6, 1.0, 224),
    "S": (384, 12, 6, 6, 1.0, 224),
    "B": (768, 12, 12, 12, 0.5, 224),
    "L": (1024, 24, 16, 16, 0.5, 384),
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def make_vit(size: str, **changes: object) -> PlainViT:
    dim, depth, heads, _, _, img_size = SIZES[size]
    sizes = {"embed_dim": dim, "depth": depth, "num_heads": heads, "img_size": img_size}
    return PlainViT(**{**sizes, **changes})


def make_adapter(size: str, vit: PlainViT) -> ViTAdapter:
    _, depth, _, heads, ratio, _ = SIZES[size]
    return ViTAdapter(
        vit,
        interaction_indexes=[(depth // 4 * i, depth // 4 * (i + 1) - 1) for i in range(4)],
        deform_num_heads=heads,
        deform_ratio=ratio,
    )


def last_blocks(size: str) -> list[int]:
    """The blocks with global attention: the last of each quarter."""
    quarter = SIZES[size][1] // 4
    return [quarter * (i + 1) - 1 for i in range(4)]


def mask_rcnn_heads(width: int) -> int:
    """Parameters of a Mask R-CNN besides its backbone, by arithmetic."""
    conv3x3 = 256 * 256 * 9 + 256
    fpn = 4 * (width * 256 + 256) + 4 * conv3x3
    rpn = conv3x3 + (256 + 1) * 3 + (256 + 1) * 12
    boxes = (12544 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * (81 + 320)
    masks = 4 * conv3x3 + (256 * 256 * 4 + 256) + (256 + 1) * 80
    return fpn + rpn + boxes + masks


def in_millions(parameters: int) -> float:
    """Rounded to two decimals, as counting tools print, and then to one, half up.

    It matters once: the detector with the plain ViT-S has 43.746 M and is published as 43.8.
    """
    hundredths = Decimal(parameters).scaleb(-6).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return float(hundredths.quantize(Decimal("0.1"), ROUND_HALF_UP))


def detector_in_millions(backbone: nn.Module, size: str) -> float:
    return in_millions(count(backbone) + mask_rcnn_heads(SIZES[size][0]))


@pytest.mark.parametrize("file", KEY_FILES, ids=lambda file: file.stem)
def test_names_and_shapes_are_the_originals(file: Path) -> None:
    described = json.loads(file.read_text())
    with torch.device("meta"):
        model = build_backbone(described["cls"], described["kwargs"])
        original = {key: torch.empty(shape) for key, shape in described["keys"].items()}
    expected = {key: tuple(value.shape) for key, value in convert_state_dict(original).items()}
    actual = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert actual == expected
    assert count(model) == described["totals"]["params_total"]
    # Which row of a bias table belongs to which pair is computed, not stored.
    assert not any("relative_position_index" in name for name in actual)
    buffers = set(convert_state_dict({key: original[key] for key in described["buffers"]}))
    assert {name for name, _ in model.named_buffers()} == buffers


def test_every_list_is_used() -> None:
    totals = json.loads((FOLDER / "param_totals.json").read_text())
    assert {f"keys_{name}" for name in totals} == {file.stem for file in KEY_FILES}


@pytest.mark.parametrize(
    ("size", "pretrained_at", "millions"),
    [("T", 224, 8.0), ("S", 224, 27.5), ("B", 384, 99.8), ("L", 384, 327.0)],
)
def test_adapters_have_the_published_counts(size: str, pretrained_at: int, millions: float) -> None:
    """B is published with the position grid of a 384-pixel pre-training; at 224 it has 99.5 M."""
    with torch.device("meta"):
        adapter = make_adapter(size, make_vit(size, img_size=pretrained_at))
    assert in_millions(count(adapter)) == millions


@pytest.mark.parametrize(
    ("size", "millions"), [("T", 28.1), ("S", 47.8), ("B", 120.2), ("L", 347.9)]
)
def test_detectors_with_adapters(size: str, millions: float) -> None:
    with torch.device("meta"):
        adapter = make_adapter(size, make_vit(size))
    assert detector_in_millions(adapter, size) == millions


@pytest.mark.parametrize(
    ("size", "millions"), [("T", 26.1), ("S", 43.8), ("B", 113.6), ("L", 337.3)]
)
def test_detectors_with_plain_vits(size: str, millions: float) -> None:
    with torch.device("meta"):
        baseline = ViTBaseline(make_vit(size), out_indexes=last_blocks(size))
    assert detector_in_millions(baseline, size) == millions


@pytest.mark.parametrize(
    ("size", "millions"), [("T", 26.6), ("S", 45.7), ("B", 121.3), ("L", 350.9)]
)
def test_detectors_with_vitdet(size: str, millions: float) -> None:
    blocks = last_blocks(size)
    with torch.device("meta"):
        baseline = ViTBaseline(make_vit(size, residual_indexes=blocks), out_indexes=blocks)
    assert detector_in_millions(baseline, size) == millions
