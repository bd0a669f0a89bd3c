"""Layer decay for timm's ViTs, which have different names before the blocks."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from vit_adapter import TimmViT
from vit_adapter.solver import layer_decay_param_groups

HEADS = {"num_heads": 3}
DEPTH, RATE = 3, 0.5
MODELS = [
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "beit_base_patch16_224",
    "beit3_base_patch16_224",
    "vit_base_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "vit_small_patch16_rope_mixed_224",
    "eva02_base_patch14_224",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224",
    "samvit_base_patch16",
]


def make_model(name: str) -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.vit = TimmViT(name=name, depth=DEPTH, embed_dim=48, model_args=HEADS)
    model.head = nn.Linear(4, 4)
    return model


def rates(model: nn.Module) -> dict[str, float]:
    groups = layer_decay_param_groups(model, base_lr=1.0, weight_decay=0.05, decay_rate=RATE)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


@pytest.mark.parametrize("name", MODELS)
def test_blocks_and_stem(name: str) -> None:
    found = rates(make_model(name))
    assert found.pop("head.weight") == found.pop("head.bias") == 1.0
    for parameter, rate in found.items():
        parts = parameter.removeprefix("backbone.vit.model.").split(".")
        layer = int(parts[1]) + 1 if parts[0] == "blocks" else 0
        assert rate == RATE ** (DEPTH + 1 - layer), parameter


@pytest.mark.parametrize("name", [name for name in MODELS if "rope_mixed" not in name])
def test_timm_groups_the_same_way(name: str) -> None:
    """timm scales the last layer by one, which is the last block in a model without a head."""
    model = make_model(name)
    module = model.backbone.vit.model
    groups = param_groups_layer_decay(module, layer_decay=RATE)
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    found = rates(model)
    for key, parameter in module.named_parameters():
        assert found[f"backbone.vit.model.{key}"] == pytest.approx(scales[id(parameter)] * RATE)


def test_other_models_have_no_other_layers() -> None:
    """In all models, every name before the blocks is known."""
    for name in timm.list_models(module=["vision_transformer", "eva", "deit"])[::7]:
        if "sapiens2" in name:
            continue  # its blocks have different numbers of heads, so it cannot be shortened
        with torch.device("meta"):
            plan = TimmViT(name=name, depth=1)
        assert set(plan.parameter_layers().values()) == {0, 1}, name


def test_timm_names_what_is_not_decayed() -> None:
    trunk = TimmViT(name="vit_small_patch16_rope_mixed_ape_224", depth=1)
    spared = trunk.no_weight_decay() & set(dict(trunk.named_parameters()))
    assert spared == {"model.cls_token", "model.pos_embed", "model.rope.freqs"}
