"""Parameters of UPerNet and Semantic FPN against the published counts (arXiv 2205.08534).

The paper counts the base size with the position grid of 384-pixel weights.
"""

import copy
from functools import cache

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from vit_adapter import model_zoo


def millions(model: DictConfig) -> float:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in instantiate(model).parameters())
    return round(count / 1e6, 1)


@cache
def read(name: str) -> DictConfig:
    return model_zoo.get_config(f"common/models/{name}")


def common(name: str) -> DictConfig:
    """A copy of a config, to be changed freely."""
    return copy.deepcopy(read(name))


def segmentor(name: str, backbone: DictConfig) -> DictConfig:
    """UPerNet or semantic FPN for the classes of ADE20K."""
    model = common(name).model
    if name == "upernet":
        model.backbone = backbone
        model.sem_seg_head.main.num_classes = 150
    else:
        model.backbone.bottom_up = backbone
        model.sem_seg_head.num_classes = 150
    return model


@pytest.mark.parametrize(
    ("family", "name", "upernet", "semantic_fpn"),
    [
        ("vit_adapter_seg", "tiny", 36.1, 12.2),
        ("vit_adapter_seg", "small", 57.6, 31.9),
        ("vit_adapter_seg", "base_augreg", 133.9, 104.6),
        ("vit_adapter_seg", "large", 363.8, 332.0),
        ("vit_baseline_seg", "vit_tiny", 34.1, 10.2),
        ("vit_baseline_seg", "vit_small", 53.6, 27.8),
        ("vit_baseline_seg", "vit_base_augreg", 127.3, 98.0),
    ],
)
def test_vits(family: str, name: str, upernet: float, semantic_fpn: float) -> None:
    backbone = common(family)[name]
    assert millions(segmentor("upernet", backbone)) == upernet
    assert millions(segmentor("semantic_fpn", backbone)) == semantic_fpn


def test_beit_large() -> None:
    """Published as 451 M for crops of 480, 512 and 640 pixels; position biases differ by 1.2 M."""
    model = segmentor("upernet", common("vit_adapter_seg").beit_large)
    model.sem_seg_head.main.channels = 1024
    counts = {}
    for crop in (480, 512, 640):
        model.backbone.vit.img_size = crop
        counts[crop] = millions(model)
    assert counts == {480: 450.9, 512: 451.0, 640: 451.9}


@pytest.mark.parametrize(("name", "expected"), [("upernet", 363.4), ("semantic_fpn", 331.6)])
def test_uniperceiver_large(name: str, expected: float) -> None:
    """0.380 M less than AugReg-L, as the backbones alone: other positions and norms."""
    backbone = common("vit_adapter_seg").uniperceiver_large
    assert millions(segmentor(name, backbone)) == expected


@pytest.mark.parametrize(
    ("size", "crop", "millions_of_backbone"),
    [("base", 480, 99.8), ("base", 512, 99.9), ("large", 480, 327.7), ("large", 896, 331.1)],
)
def test_beit_backbones(size: str, crop: int, millions_of_backbone: float) -> None:
    backbone = common("vit_adapter_seg")[f"beit_{size}"]
    backbone.vit.img_size = crop
    assert millions(backbone) == millions_of_backbone
