"""The configs for small data."""

from collections.abc import Callable

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from vit_adapter import model_zoo
from vit_adapter.config.semantic_branch import drop_label_maps
from vit_adapter.engine.freezing import freeze_parameters

ALL = [name for name in model_zoo.list_configs() if name.startswith("quick_start/")]
DETECTORS = [name for name in ALL if name.split("/")[1].startswith(("atss", "gfl", "htc"))]


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_are_narrow_and_have_group_norms(
    name: str, load_config: Callable[[str], DictConfig]
) -> None:
    model = load_config(name).model
    with torch.device("meta"):
        built = instantiate(model)
    norms = [m for m in built.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert not norms
    backbone = sum(parameter.numel() for parameter in built.backbone.parameters())
    heads = sum(parameter.numel() for parameter in built.parameters()) - backbone
    assert heads < 4e6


@pytest.mark.parametrize("name", [n for n in DETECTORS if "htc" not in n])
def test_atss_and_gfl_learn_from_boxes(name: str, load_config: Callable[[str], DictConfig]) -> None:
    cfg = load_config(name)
    assert not cfg.dataloader.train.mapper.use_instance_mask
    assert list(cfg.model.backbone.bottom_up.out_features) == ["res3", "res4", "res5"]


@pytest.mark.parametrize("name", [n for n in DETECTORS if "htc" in n])
def test_htc_needs_no_label_maps(name: str, load_config: Callable[[str], DictConfig]) -> None:
    cfg = load_config(name)
    assert cfg.model.roi_heads.semantic_head is None
    assert "label_root" not in cfg.dataloader.train.dataset
    assert cfg.dataloader.train.mapper.use_instance_mask
    drop_label_maps(cfg)
    assert cfg == load_config(name)


@pytest.mark.parametrize("name", [n for n in ALL if "_dinov2" in n])
def test_the_pre_trained_vit_is_frozen(name: str, load_config: Callable[[str], DictConfig]) -> None:
    cfg = load_config(name)
    assert "dinov2_vits14" in cfg.train.vit_checkpoint
    with torch.device("meta"):
        model = instantiate(cfg.model)
    freeze_parameters(model, cfg.train.freeze)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and not any("bottom_up.vit." in name for name in trained)
