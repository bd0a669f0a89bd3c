"""Whole checkpoints of the original, made up from its lists of names and shapes.

The lists of the backbones were written by running the original, those of the heads follow the
libraries under it; the parameters that its optimizers were given, and their number, confirm both.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from omegaconf import DictConfig
from original_shapes import Shapes, conv, mask2former, mask_rcnn, upernet, upgraded_mask_rcnn
from torch import Tensor, nn

from vit_adapter import model_zoo
from vit_adapter.checkpoint import load_strict
from vit_adapter.checkpoint.loading import compare_keys
from vit_adapter.checkpoint.original import build_backbone, convert, revert
from vit_adapter.checkpoint.original.provenance import find_tree
from vit_adapter.config.overrides import apply_overrides

GOLDEN = Path(__file__).parent / "golden"
# Other lists can be tried too.
LISTS = Path(os.environ.get("VIT_ADAPTER_GOLDEN") or GOLDEN)
BACKBONES = sorted(file.stem.removeprefix("keys_") for file in LISTS.glob("keys_*.json"))
DETECTORS = [name for name in BACKBONES if name.startswith("det_")]
SEGMENTORS = [name for name in BACKBONES if name.startswith("seg_")]


def read(name: str, folder: Path = GOLDEN) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def our_mask_rcnn(described: dict[str, Any]) -> DictConfig:
    model = model_zoo.get_config("common/models/mask_rcnn").model
    backbone = LazyCall(build_backbone)(cls=described["cls"], kwargs=described["kwargs"])
    model.backbone.bottom_up = backbone
    return model


def our_upernet(described: dict[str, Any], channels: int) -> DictConfig:
    model = model_zoo.get_config("common/models/upernet").model
    model.backbone = LazyCall(build_backbone)(cls=described["cls"], kwargs=described["kwargs"])
    head = model.sem_seg_head
    head.main.channels, head.main.num_classes = channels, 150
    for shape in (*head.main.input_shape.values(), *head.auxiliary.input_shape.values()):
        shape.channels = described["kwargs"]["embed_dim"]
    return model


def our_mask2former(described: dict[str, Any], size: str) -> DictConfig:
    model = model_zoo.get_config("common/models/mask2former")[size]
    model.backbone = LazyCall(build_backbone)(cls=described["cls"], kwargs=described["kwargs"])
    model.head.transformer_decoder.num_classes = 150
    for shape in model.head.pixel_decoder.input_shape.values():
        shape.channels = described["kwargs"]["embed_dim"]
    return model


def on_meta(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def backbone_shapes(described: dict[str, Any], prefix: str = "backbone.") -> Shapes:
    return {f"{prefix}{name}": tuple(shape) for name, shape in described["keys"].items()}


def check(model: nn.Module, original: dict[str, Tensor]) -> None:
    """Every name and shape finds its place, and its way back."""
    conversion = convert(original)
    report = compare_keys(model, conversion.state_dict)
    assert report.is_exact, report.describe()
    indexes = {name for name in original if name.endswith("relative_position_index")}
    assert set(conversion.dropped) == indexes
    back = revert(conversion.state_dict, tree=find_tree(original)).state_dict
    assert list(back) == list(original)
    for name, value in original.items():
        assert back[name].shape == value.shape
        assert back[name] is value or name in indexes


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_alone(name: str) -> None:
    described = read(f"keys_{name}", LISTS)
    with torch.device("meta"):
        model = build_backbone(described["cls"], described["kwargs"])
    check(model, on_meta(backbone_shapes(described, prefix="")))


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors(name: str) -> None:
    described = read(f"keys_{name}", LISTS)
    with torch.device("meta"):
        model = instantiate(our_mask_rcnn(described))
    heads = mask_rcnn(described["kwargs"]["embed_dim"])
    check(model, on_meta({**backbone_shapes(described), **heads}))


# Of Mask R-CNNs that the authors released: backbone, our config, overrides as in the documentation.
RELEASED = [
    ("vit_deit_tiny", "vit_adapter_tiny_deit_3x", []),
    ("vit_deit_tiny_nolayerscale", "vit_adapter_tiny_deit_1x", ["{vit}.layer_scale=False"]),
    ("vit_deit_small", "vit_adapter_small_deit_3x", []),
    ("vit_deit_base", "vit_adapter_base_deit_3x", []),
    ("vit_augreg_large", "vit_adapter_large_augreg_3x", []),
    ("uniperceiver_base", "vit_adapter_base_uniperceiver_3x", []),
    ("beit_base_hypothetical", "vit_adapter_base_beit_3x", []),  # not released by the authors
    ("vit_dinov2_small", "vit_adapter_small_dinov2_3x", []),
    ("vit_dinov2_base", "vit_adapter_base_dinov2_3x", []),
    ("vit_dinov2_large", "vit_adapter_large_dinov2_3x", []),
    ("vit_mae_base", "vit_adapter_base_mae_lsj_25ep", []),
    ("vit_mae_base", "vit_adapter_base_mae_lsj_50ep", []),
    ("baseline_deit_tiny", "vit_tiny_deit_3x", []),
    ("baseline_deit_base", "vit_base_deit_3x", []),
    ("baseline_augreg_large", "vit_large_augreg_3x", []),
]


@pytest.mark.parametrize(("backbone", "config", "overrides"), RELEASED)
def test_released_detectors_fit_our_configs(
    backbone: str, config: str, overrides: list[str]
) -> None:
    described = read(f"keys_det_{backbone}")
    heads = upgraded_mask_rcnn if "mae" in backbone else mask_rcnn
    cfg = model_zoo.get_config(f"coco/mask_rcnn_{config}")
    vit = "model.backbone.bottom_up.vit"
    apply_overrides(cfg, [override.format(vit=vit) for override in overrides])
    with torch.device("meta"):
        model = instantiate(cfg.model)
    shapes = heads(described["kwargs"]["embed_dim"])
    check(model, on_meta({**backbone_shapes(described), **shapes}))


def test_the_released_detector_without_fpn_fits_our_config() -> None:
    described = read("keys_det_vit_deit_small")
    width = described["kwargs"]["embed_dim"]
    heads = {name: shape for name, shape in mask_rcnn(width).items() if name.startswith("r")}
    for i in range(4):
        heads |= conv(f"neck.convs.{i}", 256, width, 1, 1)
    check_released("coco/mask_rcnn_no_fpn_vit_adapter_small_deit_3x", described, heads)


# Of UPerNets that the authors released: backbone, our config, classes.
RELEASED_UPERNETS = [
    ("vit_deit_tiny", "ade20k/upernet_vit_adapter_tiny_deit_512_160k", 150),
    ("vit_deit_small", "ade20k/upernet_vit_adapter_small_deit_512_160k", 150),
    ("vit_deit_base", "ade20k/upernet_vit_adapter_base_deit_512_160k", 150),
    ("vit_deit_tiny", "ade20k/upernet_vit_adapter_tiny_augreg_512_160k", 150),
    ("vit_augreg_base", "ade20k/upernet_vit_adapter_base_augreg_512_160k", 150),
    ("vit_augreg_large", "ade20k/upernet_vit_adapter_large_augreg_512_160k", 150),
    ("uniperceiver_large", "ade20k/upernet_vit_adapter_large_uniperceiver_512_160k", 150),
    ("beit_large_640", "ade20k/upernet_vit_adapter_large_beit_640_160k", 150),
    ("beit_large_512", "coco_stuff_10k/upernet_vit_adapter_large_beit_512_80k", 171),
    ("beit_large_640", "coco_stuff_164k/upernet_vit_adapter_large_beit_640_80k", 171),
    ("beit_large_480", "pascal_context/upernet_vit_adapter_large_beit_480_80k", 59),
]
# Of its Mask2Formers: backbone, our config, classes, queries.
RELEASED_MASK2FORMERS = [
    ("beit_large_640", "ade20k/mask2former_vit_adapter_large_beit_640_160k", 150, 100),
    ("beit_large_896", "ade20k/mask2former_vit_adapter_large_beit_896_80k", 150, 200),
    ("beit_large_896", "ade20k/mask2former_vit_adapter_large_beitv2_896_80k", 150, 200),
    ("beit_large_896", "cityscapes/mask2former_vit_adapter_large_beit_896_80k", 19, 100),
    ("beit_base_512", "coco_stuff_10k/mask2former_vit_adapter_base_beit_512_40k", 171, 100),
    ("beit_large_512", "coco_stuff_10k/mask2former_vit_adapter_large_beit_512_40k", 171, 100),
    ("beit_large_896", "coco_stuff_164k/mask2former_vit_adapter_large_beit_896_80k", 171, 200),
    ("beit_large_896", "coco_stuff_164k/mask2former_vit_adapter_large_beitv2_896_80k", 171, 200),
    (
        "beit_large_896",
        "mapillary/mask2former_vit_adapter_large_beit_896_80k_for_cityscapes",
        19,
        100,
    ),
    ("beit_base_480", "pascal_context/mask2former_vit_adapter_base_beit_480_40k", 59, 100),
    ("beit_large_480", "pascal_context/mask2former_vit_adapter_large_beit_480_40k", 59, 100),
]


def check_released(config: str, described: dict[str, Any], heads: Shapes) -> None:
    with torch.device("meta"):
        model = instantiate(model_zoo.get_config(config).model)
    check(model, on_meta({**backbone_shapes(described), **heads}))


@pytest.mark.parametrize(("backbone", "config", "classes"), RELEASED_UPERNETS)
def test_released_upernets_fit_our_configs(backbone: str, config: str, classes: int) -> None:
    described = read(f"keys_seg_{backbone}")
    channels = 1024 if "beit" in backbone else 512
    heads = upernet(described["kwargs"]["embed_dim"], channels, classes)
    check_released(config, described, heads)


@pytest.mark.parametrize(("backbone", "config", "classes", "queries"), RELEASED_MASK2FORMERS)
def test_released_mask2formers_fit_our_configs(
    backbone: str, config: str, classes: int, queries: int
) -> None:
    described = read(f"keys_seg_{backbone}")
    dim, hidden = (1024, (4096, 4096)) if "large" in backbone else (256, (1024, 2048))
    heads = mask2former(described["kwargs"]["embed_dim"], dim, hidden, classes, queries=queries)
    check_released(config, described, heads)


@pytest.mark.parametrize("name", SEGMENTORS)
def test_upernets(name: str) -> None:
    described = read(f"keys_{name}", LISTS)
    channels = 1024 if "beit" in name else 512
    with torch.device("meta"):
        model = instantiate(our_upernet(described, channels))
    heads = upernet(described["kwargs"]["embed_dim"], channels)
    check(model, on_meta({**backbone_shapes(described), **heads}))


@pytest.mark.parametrize(
    ("backbone", "size", "hidden"),
    [("seg_beit_large_896", "large", (4096, 4096)), ("seg_beit_base_512", "base", (1024, 2048))],
)
def test_mask2formers(backbone: str, size: str, hidden: tuple[int, int]) -> None:
    described = read(f"keys_{backbone}")
    with torch.device("meta"):
        model = instantiate(our_mask2former(described, size))
    dim = model.head.pixel_decoder.embed_dim
    heads = mask2former(described["kwargs"]["embed_dim"], dim, hidden)
    check(model, on_meta({**backbone_shapes(described), **heads}))


def test_the_panoptic_detector() -> None:
    described = read("keys_det_beit_large")
    cfg = model_zoo.get_config("coco/mask2former_panoptic_vit_adapter_large_beitv2_3x")
    with torch.device("meta"):
        model = instantiate(cfg.model)
    heads = mask2former(1024, 256, (1024, 2048), classes=133, head="panoptic_head")
    original = on_meta({**backbone_shapes(described), **heads})
    check(model, original)
    buffers = ("relative_position_index", "running_mean", "running_var", "num_batches_tracked")
    count = sum(value.numel() for name, value in original.items() if not name.endswith(buffers))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


MODELS = {
    "mask_rcnn_deit_tiny_3x": (our_mask_rcnn, ()),
    "mask_rcnn_augreg_large_3x": (our_mask_rcnn, ()),
    "upernet_deit_tiny": (our_upernet, (512,)),
    "upernet_augreg_base": (our_upernet, (512,)),
    "mask2former_beit_large_640": (our_mask2former, ("large",)),
}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_of_whole_models(name: str) -> None:
    """Their optimizer's groups name every parameter; the totals are the published counts."""
    golden = read(f"optim_{name}")
    build, arguments = MODELS[name]
    with torch.device("meta"):
        model = instantiate(build(read(f"keys_{golden['backbone']}"), *arguments))
    ours = dict(model.named_parameters())
    assert sum(parameter.numel() for parameter in ours.values()) == golden["total_params"]
    expected = {name for group in golden["groups"] for name in group["names"]}
    assert set(revert(ours).names.values()) == expected


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
