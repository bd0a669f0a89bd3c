"""Parameter groups of segmentors against those that the original's constructors build."""

import copy
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from vit_adapter import model_zoo

# Parts of Mask2Former, ours -> the original's
HEAD_RENAMES = [
    (r"^head\.(pixel_decoder|transformer_decoder)\.", r"decode_head.\1."),
    (r"\.transformer_decoder\.((?:query|level|cls|mask)_(?:embed|feat))", r".\1"),
    (r"(encoder\.layers\.\d+)\.self_attn", r"\1.attentions.0"),
    (r"(transformer_decoder\.layers\.\d+)\.cross_attn", r"\1.attentions.0.attn"),
    (r"(transformer_decoder\.layers\.\d+)\.self_attn", r"\1.attentions.1.attn"),
    (r"\.ffn\.linear1", ".ffns.0.layers.0.0"),
    (r"\.ffn\.linear2", ".ffns.0.layers.1"),
    (r"(layers\.\d+)\.norm(\d)", lambda match: f"{match[1]}.norms.{int(match[2]) - 1}"),
]

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
    if name.startswith("head."):
        for pattern, replacement in HEAD_RENAMES:
            name = re.sub(pattern, replacement, name)
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


def assert_groups_of_the_original(name: str, model: DictConfig, optimizer: DictConfig) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    module, built = build(model, optimizer)
    assert sum(param.numel() for param in module.parameters()) == golden["total_params"]
    ours, theirs = built_groups(module, built), expected_groups(golden)
    assert ours.keys() == theirs.keys()
    for names, expected in theirs.items():
        assert ours[names] == pytest.approx(expected, rel=1e-12), sorted(names)[0]


@cache
def read(name: str) -> DictConfig:
    return model_zoo.get_config(f"common/{name}")


def common(name: str) -> DictConfig:
    """A copy of a config, to be changed freely."""
    return copy.deepcopy(read(name))


@pytest.mark.parametrize(
    ("golden_name", "backbone", "optimizer", "lr"),
    [
        ("optim_upernet_deit_tiny", "tiny", "seg_deit", 12e-5),
        ("optim_upernet_augreg_base", "base_augreg", "seg_augreg_base", 2e-5),
    ],
)
def test_upernet(golden_name: str, backbone: str, optimizer: str, lr: float) -> None:
    cfg = common("models/upernet")
    cfg.model.backbone = common("models/vit_adapter_seg")[backbone]
    cfg.model.sem_seg_head.main.num_classes = 150
    optim = common("optim")[optimizer]
    optim.lr = lr
    assert_groups_of_the_original(golden_name, cfg.model, optim)


def beit_large_mask2former() -> DictConfig:
    """As trained with crops of 640 pixels."""
    model = common("models/mask2former").large
    model.backbone = common("models/vit_adapter_seg").beit_large
    model.backbone.vit.img_size = 640
    model.head.transformer_decoder.num_classes = 150
    return model


def test_mask2former() -> None:
    optim = common("optim").mask2former_large
    assert_groups_of_the_original(
        "optim_mask2former_beit_large_640", beit_large_mask2former(), optim
    )


def test_mask2former_without_accidents() -> None:
    optim = common("optim").mask2former_large
    optim.params.as_published = False
    module, optimizer = build(beit_large_mask2former(), optim)
    of_name = {}
    for names, (lr, weight_decay) in built_groups(module, optimizer).items():
        of_name.update(dict.fromkeys(names, (lr, weight_decay)))
    heads = {values for name, values in of_name.items() if name.startswith("decode_head.")}
    assert heads == {(2e-5, 0.05), (2e-5, 0.0)}
    tables = [
        "backbone.cls_token",
        "backbone.level_embed",
        "backbone.blocks.23.attn.relative_position_bias_table",
        "decode_head.query_feat.weight",
        "decode_head.query_embed.weight",
        "decode_head.level_embed.weight",
        "decode_head.pixel_decoder.level_encoding.weight",
    ]
    assert [of_name[name][1] for name in tables] == [0.0] * len(tables)
    assert of_name["decode_head.cls_embed.weight"] == (2e-5, 0.05)
