"""Parameter groups against those that the original's optimizer constructors build."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from vit_adapter import model_zoo
from vit_adapter.checkpoint.original import build_backbone
from vit_adapter.solver import custom_keys_param_groups, layer_decay_param_groups

GOLDEN = Path(__file__).parent / "golden"

# Ours -> the original's, tried in this order.
RENAMES = [
    (r"backbone\.bottom_up\.(?:vit\.)?", "backbone."),
    (r"backbone\.fpn_lateral(\d)", lambda m: f"neck.lateral_convs.{int(m[1]) - 2}.conv"),
    (r"backbone\.fpn_output(\d)", lambda m: f"neck.fpn_convs.{int(m[1]) - 2}.conv"),
    (r"proposal_generator\.rpn_head\.conv", "rpn_head.rpn_conv"),
    (r"proposal_generator\.rpn_head\.objectness_logits", "rpn_head.rpn_cls"),
    (r"proposal_generator\.rpn_head\.anchor_deltas", "rpn_head.rpn_reg"),
    (
        r"roi_heads\.box_head\.fc(\d)",
        lambda m: f"roi_head.bbox_head.shared_fcs.{int(m[1]) - 1}",
    ),
    (r"roi_heads\.box_predictor\.cls_score", "roi_head.bbox_head.fc_cls"),
    (r"roi_heads\.box_predictor\.bbox_pred", "roi_head.bbox_head.fc_reg"),
    (
        r"roi_heads\.mask_head\.mask_fcn(\d)",
        lambda m: f"roi_head.mask_head.convs.{int(m[1]) - 1}.conv",
    ),
    (r"roi_heads\.mask_head\.deconv", "roi_head.mask_head.upsample"),
    (r"roi_heads\.mask_head\.predictor", "roi_head.mask_head.conv_logits"),
]


def _original_name(name: str) -> str:
    for pattern, replacement in RENAMES:
        renamed, count = re.subn(rf"^{pattern}\b", replacement, name)
        if count:
            return renamed
    return name


def _read(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def _comparable(groups: list[tuple[float, float, list[str]]]) -> dict[frozenset[str], list[float]]:
    return {frozenset(names): [lr, weight_decay] for lr, weight_decay, names in groups}


def _expected(golden: dict[str, Any]) -> dict[frozenset[str], list[float]]:
    return _comparable([(g["lr"], g["weight_decay"], g["names"]) for g in golden["groups"]])


def _computed(model: nn.Module, groups: list[dict[str, Any]]) -> dict[frozenset[str], list[float]]:
    names = {id(param): _original_name(name) for name, param in model.named_parameters()}
    return _comparable(
        [(g["lr"], g["weight_decay"], [names[id(p)] for p in g["params"]]) for g in groups]
    )


def _assert_same_groups(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for names, expected in theirs.items():
        assert ours[names] == pytest.approx(expected, rel=1e-12), sorted(names)[0]


@pytest.mark.parametrize(
    ("golden_name", "config"),
    [
        ("optim_mask_rcnn_deit_tiny_3x", "coco/mask_rcnn_vit_adapter_tiny_deit_3x"),
        ("optim_mask_rcnn_augreg_large_3x", "coco/mask_rcnn_vit_adapter_large_augreg_3x"),
    ],
)
def test_mask_rcnn_config_builds_the_groups_of_the_original(golden_name: str, config: str) -> None:
    golden = _read(golden_name)
    cfg = model_zoo.get_config(config)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == golden["total_params"]
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    _assert_same_groups(_computed(model, optimizer.param_groups), _expected(golden))
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)


def _module_with_names(golden: dict[str, Any]) -> nn.Module:
    """A module whose parameters have the original's own names.

    The files hold no shapes. What is not decayed by the layer-decay rule and no bias is 1-D.
    """
    root = nn.Module()
    for group in golden["groups"]:
        for name in group["names"]:
            *owners, leaf = name.split(".")
            module = root
            for owner in owners:
                if owner not in module._modules:
                    module.add_module(owner, nn.Module())
                module = module._modules[owner]
            shape = (1, 1) if group["weight_decay"] else (1,)
            module.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))
    return root


def test_custom_keys_with_a_learning_rate_for_heads() -> None:
    golden = _read("optim_upernet_augreg_base")
    model = _module_with_names(golden)
    groups = custom_keys_param_groups(
        model,
        base_lr=golden["base_lr"],
        weight_decay=golden["base_wd"],
        custom_keys=golden["paramwise"]["custom_keys"],
    )
    assert {group["lr"] for group in groups} == {golden["base_lr"], 10 * golden["base_lr"]}
    _assert_same_groups(_computed(model, groups), _expected(golden))


def test_layer_decay_with_head_parameters_in_the_first_layer() -> None:
    golden = _read("optim_mask2former_beit_large_640")
    described = _read(f"keys_{golden['backbone']}")
    model = _module_with_names(golden)
    with torch.device("meta"):  # only a ViT knows its layers
        model.backbone = nn.ModuleDict(
            {"bottom_up": build_backbone(described["cls"], described["kwargs"])}
        )
    # What the original's segmentation code sends to layer 0 beside the trunk's input layers.
    heads = ["mask_embed", "cls_embed", "level_embed", "query_embed", "query_feat"]
    groups = layer_decay_param_groups(
        model,
        base_lr=golden["base_lr"],
        weight_decay=golden["base_wd"],
        decay_rate=golden["paramwise"]["layer_decay_rate"],
        first_layer_names=[f"decode_head.{name}" for name in heads],
    )
    _assert_same_groups(_computed(model, groups), _expected(golden))


@pytest.mark.parametrize(
    "golden_name",
    ["optim_upernet_deit_tiny", "optim_upernet_augreg_base", "optim_mask2former_beit_large_640"],
)
def test_backbones_of_segmentors(golden_name: str) -> None:
    """The backbone's share of the groups, with the backbone itself: names, ranks, ViT inside."""
    golden = _read(golden_name)
    described = _read(f"keys_{golden['backbone']}")
    with torch.device("meta"):
        backbone = build_backbone(described["cls"], described["kwargs"])
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"bottom_up": backbone})})
    options = {"base_lr": golden["base_lr"], "weight_decay": golden["base_wd"]}
    rule = golden["paramwise"]
    if "custom_keys" in rule:
        groups = custom_keys_param_groups(model, custom_keys=rule["custom_keys"], **options)
    else:
        groups = layer_decay_param_groups(model, decay_rate=rule["layer_decay_rate"], **options)
    expected = {
        frozenset(name for name in names if name.startswith("backbone.")): values
        for names, values in _expected(golden).items()
    }
    expected.pop(frozenset(), None)
    _assert_same_groups(_computed(model, groups), expected)
