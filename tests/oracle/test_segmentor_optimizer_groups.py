"""Parameter groups of segmentors against those that the original's constructors build."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from vit_adapter import model_zoo

GOLDEN = Path(__file__).parent / "golden"
Groups = dict[frozenset[str], list[float]]


def original_name(name: str) -> str:
    """The name of a parameter in the original's segmentors."""
    name = re.sub(r"^backbone\.vit\.", "backbone.", name)
    if name.startswith("sem_seg_head."):
        name = re.sub(r"^sem_seg_head\.main\.", "decode_head.", name)
        name = re.sub(r"^sem_seg_head\.auxiliary\.", "auxiliary_head.", name)
        name = name.replace(".norm.", ".bn.")
        return re.sub(r"(?<!bn)(?<!conv_seg)\.weight$", ".conv.weight", name)
    return name


def expected_groups(golden: dict[str, Any]) -> Groups:
    return {
        frozenset(group["names"]): [group["lr"], group["weight_decay"]]
        for group in golden["groups"]
    }


def built_groups(model: nn.Module, optimizer: torch.optim.Optimizer) -> Groups:
    names = {id(param): original_name(name) for name, param in model.named_parameters()}
    return {
        frozenset(names[id(param)] for param in group["params"]): [
            group["lr"],
            group["weight_decay"],
        ]
        for group in optimizer.param_groups
    }


def build(model: DictConfig, optimizer: DictConfig) -> tuple[nn.Module, torch.optim.Optimizer]:
    with torch.device("meta"):
        module = instantiate(model)
    optimizer.params.model = module
    return module, instantiate(optimizer)


def common(name: str) -> DictConfig:
    return model_zoo.get_config(f"common/{name}")


@pytest.mark.parametrize(
    ("golden_name", "backbone", "optimizer", "lr"),
    [
        ("optim_upernet_deit_tiny", "tiny", "seg_deit", 12e-5),
        ("optim_upernet_augreg_base", "base_augreg", "seg_augreg_base", 2e-5),
    ],
)
def test_upernet(golden_name: str, backbone: str, optimizer: str, lr: float) -> None:
    golden = json.loads((GOLDEN / f"{golden_name}.json").read_text())
    cfg = common("models/upernet")
    cfg.model.backbone = common("models/vit_adapter_seg")[backbone]
    optim = common("optim")[optimizer]
    optim.lr = lr
    module, built = build(cfg.model, optim)
    assert sum(param.numel() for param in module.parameters()) == golden["total_params"]
    ours, theirs = built_groups(module, built), expected_groups(golden)
    assert ours.keys() == theirs.keys()
    for names, expected in theirs.items():
        assert ours[names] == pytest.approx(expected, rel=1e-12), sorted(names)[0]
