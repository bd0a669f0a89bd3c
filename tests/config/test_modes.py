"""Every config with a ViT-Adapter runs in every mode with a single override."""

from collections.abc import Callable, Iterator

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from vit_adapter import ViTAdapter, model_zoo
from vit_adapter.backbone.modes import MODES
from vit_adapter.config.overrides import apply_overrides

_counted: dict[str, int] = {}
TARGETS = (ViTAdapter, f"{ViTAdapter.__module__}.{ViTAdapter.__qualname__}")


def adapters(node: DictConfig, prefix: str) -> Iterator[str]:
    """Keys of the nodes that build a ViT-Adapter."""
    if node.get("_target_") in TARGETS:
        yield prefix
    for key, child in node.items():
        if isinstance(child, DictConfig):
            yield from adapters(child, f"{prefix}.{key}")


def trainable_numbers(node: DictConfig) -> int:
    """Count the trained parameters of a backbone, cached because leaves share backbones."""
    if str(node) not in _counted:
        with torch.device("meta"):
            adapter = instantiate(node)
        assert adapter.mode == node.mode
        _counted[str(node)] = sum(p.numel() for p in adapter.parameters() if p.requires_grad)
    return _counted[str(node)]


@pytest.mark.parametrize("name", [n for n in model_zoo.list_configs() if "vit_adapter" in n])
def test_mode_is_one_override(name: str, load_config: Callable[[str], DictConfig]) -> None:
    cfg = load_config(name)
    (key,) = adapters(cfg.model, "model")
    counts = []
    for mode in MODES:
        apply_overrides(cfg, [f"{key}.mode={mode}"])
        counts.append(trainable_numbers(OmegaConf.select(cfg, key)))
    full, frozen, light = counts
    assert frozen < light < full


@pytest.mark.parametrize("mode", ["frozen", "light"])
def test_all_trained_parameters_are_in_the_optimizer(
    mode: str, load_config: Callable[[str], DictConfig]
) -> None:
    """Even with layer decay, which assigns groups by the ViT's blocks, trained or not."""
    cfg = load_config("coco/mask_rcnn_vit_adapter_large_augreg_3x")
    apply_overrides(cfg, [f"model.backbone.bottom_up.mode={mode}"])
    with torch.device("meta"):
        model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    groups = instantiate(cfg.optimizer).param_groups
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    assert grouped == {id(p) for p in model.parameters() if p.requires_grad}
    rates = {group["lr"] for group in groups}
    assert len(rates) == (1 if mode == "frozen" else cfg.model.backbone.bottom_up.vit.depth + 2)
