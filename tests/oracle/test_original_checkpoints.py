"""Whole checkpoints of the original, made up from its lists of names and shapes.

The backbones' lists were written by running the original; those of neck and heads follow the
library under it, and the number of parameters that the authors published confirms them.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from vit_adapter import model_zoo
from vit_adapter.checkpoint import load_strict
from vit_adapter.checkpoint.loading import compare_keys
from vit_adapter.checkpoint.original import build_backbone, convert, revert

GOLDEN = Path(__file__).parent / "golden"
BACKBONES = sorted(file.stem.removeprefix("keys_") for file in GOLDEN.glob("keys_*.json"))
DETECTORS = [name for name in BACKBONES if name.startswith("det_")]

Shapes = dict[str, tuple[int, ...]]


def read(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def conv(name: str, *shape: int, norm: bool = False) -> Shapes:
    """A convolution of the original's library, with a bias or followed by a batch norm."""
    if not norm:
        return {f"{name}.conv.weight": shape, f"{name}.conv.bias": shape[:1]}
    statistics = ("weight", "bias", "running_mean", "running_var")
    return {
        f"{name}.conv.weight": shape,
        **{f"{name}.bn.{statistic}": shape[:1] for statistic in statistics},
        f"{name}.bn.num_batches_tracked": (),
    }


def layer(name: str, *shape: int, outputs: int | None = None) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": (outputs or shape[0],)}


def fpn(width: int, norm: bool = False) -> Shapes:
    shapes = {}
    for i in range(4):
        shapes |= conv(f"neck.lateral_convs.{i}", 256, width, 1, 1, norm=norm)
        shapes |= conv(f"neck.fpn_convs.{i}", 256, 256, 3, 3, norm=norm)
    return shapes


def mask_branch(norm: bool = False) -> Shapes:
    shapes = layer("roi_head.mask_head.upsample", 256, 256, 2, 2)
    for i in range(4):
        shapes |= conv(f"roi_head.mask_head.convs.{i}", 256, 256, 3, 3, norm=norm)
    return shapes | layer("roi_head.mask_head.conv_logits", 80, 256, 1, 1)


def predictions() -> Shapes:
    return {
        **layer("rpn_head.rpn_cls", 3, 256, 1, 1),
        **layer("rpn_head.rpn_reg", 12, 256, 1, 1),
        **layer("roi_head.bbox_head.fc_cls", 81, 1024),
        **layer("roi_head.bbox_head.fc_reg", 320, 1024),
    }


def mask_rcnn(width: int) -> Shapes:
    """Neck and heads of the original's Mask R-CNN."""
    return {
        **fpn(width),
        **layer("rpn_head.rpn_conv", 256, 256, 3, 3),
        **predictions(),
        **layer("roi_head.bbox_head.shared_fcs.0", 1024, 256 * 7 * 7),
        **layer("roi_head.bbox_head.shared_fcs.1", 1024, 1024),
        **mask_branch(),
    }


def upgraded_mask_rcnn(width: int) -> Shapes:
    """The same of its detectors trained from MAE."""
    shapes = fpn(width, norm=True)
    for i in range(2):
        shapes |= conv(f"rpn_head.rpn_conv.{i}", 256, 256, 3, 3)
    for i in range(4):
        shapes |= conv(f"roi_head.bbox_head.shared_convs.{i}", 256, 256, 3, 3, norm=True)
    shapes |= layer("roi_head.bbox_head.shared_fcs.0", 1024, 256 * 7 * 7)
    return {**shapes, **predictions(), **mask_branch(norm=True)}


def our_mask_rcnn(described: dict[str, Any]) -> DictConfig:
    model = model_zoo.get_config("common/models/mask_rcnn").model
    backbone = LazyCall(build_backbone)(cls=described["cls"], kwargs=described["kwargs"])
    model.backbone.bottom_up = backbone
    return model


def upgrade(model: DictConfig) -> DictConfig:
    model.backbone.norm = "SyncBN"
    model.proposal_generator.head.conv_dims = [-1, -1]
    model.roi_heads.box_head.update(conv_dims=[256] * 4, fc_dims=[1024], conv_norm="SyncBN")
    model.roi_heads.box_predictor.input_shape.channels = 1024
    model.roi_heads.mask_head.conv_norm = "SyncBN"
    return model


def on_meta(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def backbone_shapes(described: dict[str, Any], prefix: str = "backbone.") -> Shapes:
    return {f"{prefix}{name}": tuple(shape) for name, shape in described["keys"].items()}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def check(model: nn.Module, original: dict[str, Tensor]) -> None:
    """Every name and shape finds its place, and its way back."""
    conversion = convert(original)
    report = compare_keys(model, conversion.state_dict)
    assert report.is_exact, report.describe()
    assert not conversion.dropped
    back = revert(conversion.state_dict).state_dict
    assert list(back) == list(original)
    assert all(back[name] is value for name, value in original.items())


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_alone(name: str) -> None:
    described = read(f"keys_{name}")
    with torch.device("meta"):
        model = build_backbone(described["cls"], described["kwargs"])
    check(model, on_meta(backbone_shapes(described, prefix="")))


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors(name: str) -> None:
    described = read(f"keys_{name}")
    width = described["kwargs"]["embed_dim"]
    heads, config = mask_rcnn(width), our_mask_rcnn(described)
    if name == "det_vit_mae_base":
        heads, config = upgraded_mask_rcnn(width), upgrade(config)
    with torch.device("meta"):
        model = instantiate(config)
    check(model, on_meta({**backbone_shapes(described), **heads}))


@pytest.mark.parametrize(("name", "millions"), [("deit_tiny", 28.07), ("augreg_large", 347.93)])
def test_the_lists_of_heads_agree_with_the_published_counts(name: str, millions: float) -> None:
    described = read(f"keys_det_vit_{name}")
    with torch.device("meta"):
        model = instantiate(our_mask_rcnn(described))
    assert round(parameters(model) / 1e6, 2) == millions
    golden = read(f"optim_mask_rcnn_{name}_3x")
    names = {name for group in golden["groups"] for name in group["names"]}
    assert names <= set(revert(model.state_dict()).state_dict)


def test_values_survive_both_ways() -> None:
    described = read("keys_det_vit_deit_tiny")
    shapes = {**backbone_shapes(described), **mask_rcnn(192)}
    original = {  # the counters of the batch norms are whole numbers without a shape
        name: torch.randn(shape) if shape else torch.tensor(3) for name, shape in shapes.items()
    }
    model = instantiate(model_zoo.get_config("coco/mask_rcnn_vit_adapter_tiny_deit_3x").model)
    load_strict(model, convert(original).state_dict)
    back = revert(model.state_dict()).state_dict
    assert set(back) == set(original)
    assert all(torch.equal(back[name], value) for name, value in original.items())
