"""Freezing parameters by patterns of their names."""

from collections import OrderedDict

import pytest
import torch
from detectron2.engine import TrainerBase
from torch import nn

from vit_adapter.backbone import PlainViT
from vit_adapter.config.errors import UsageError
from vit_adapter.engine.freezing import FrozenNorms, freeze_parameters
from vit_adapter.solver import custom_keys_param_groups, layer_decay_param_groups


def make_model() -> nn.Module:
    """Names like those of a detector; the second head shares a weight with the first."""

    def block(affine: bool = True) -> nn.Module:
        return nn.Sequential(
            OrderedDict(conv=nn.Conv2d(2, 2, 1), norm=nn.BatchNorm2d(2, affine=affine))
        )

    vit = nn.Module()
    vit.pos_embed = nn.Parameter(torch.zeros(1, 4, 2))
    vit.blocks = nn.ModuleList([block(), block(affine=False)])
    model = nn.Module()
    model.backbone = nn.Sequential(OrderedDict(vit=vit, spm=block(), norm=nn.BatchNorm2d(2)))
    model.heads = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    model.heads[1].weight = model.heads[0].weight
    return model


def trainable(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_patterns_are_searched_for_in_names() -> None:
    model = make_model()
    freeze_parameters(model, [r"backbone\.vit", "norm.bias$", "^heads.0.bias"])
    assert trainable(model) == [
        "backbone.spm.conv.weight",
        "backbone.spm.conv.bias",
        "backbone.spm.norm.weight",
        "backbone.norm.weight",
        "heads.0.weight",
        "heads.1.bias",
    ]


def test_one_pattern_and_no_pattern() -> None:
    model = make_model()
    freeze_parameters(model, [])
    assert trainable(model) == [name for name, _ in model.named_parameters()]
    freeze_parameters(model, "backbone")  # each of its letters would match everything
    assert trainable(model) == ["heads.0.weight", "heads.0.bias", "heads.1.bias"]


def test_shared_parameter_matches_by_any_of_its_names() -> None:
    model = make_model()
    freeze_parameters(model, ["heads.1.weight"])
    assert not model.heads[0].weight.requires_grad


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("backbone.vitt", r"'backbone.vitt' matches no parameter. Did you mean backbone.vit,"),
        (r"backbone\.spm\.con\.weight", "Did you mean backbone.spm.conv.weight"),
        ("roi_heads", "Did you mean heads"),
        ("qqq", "The model consists of backbone, heads."),
        ("(", r"'\(' is not a regular expression"),
    ],
)
def test_pattern_that_matches_nothing(pattern: str, message: str) -> None:
    model = make_model()
    with pytest.raises(UsageError, match=message):
        freeze_parameters(model, [pattern])
    assert trainable(model) == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize(
    ("patterns", "warned"), [([r"^0\."], True), (["lora_"], True), (["pos_embed"], False)]
)
def test_frozen_lora_factors_are_reported(
    patterns: list[str], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"img_size": 32, "embed_dim": 8, "depth": 1, "num_heads": 2}
    model = nn.Sequential(PlainViT(**sizes, lora_rank=2), nn.Linear(8, 8))
    freeze_parameters(model, patterns)
    assert ("all LoRA factors are frozen" in caplog.text) == warned


def test_norms_of_frozen_modules_stay_in_evaluation() -> None:
    model = make_model()
    freeze_parameters(model, ["vit", r"backbone\.norm", "spm.norm.bias"])
    loop = TrainerBase()
    modes = []

    def run_step() -> None:
        modes.append([module.training for module in norms])
        model.eval()  # an evaluation in between
        model.train()

    norms = [
        model.backbone.vit.blocks[0].norm,
        model.backbone.vit.blocks[1].norm,  # without parameters, in a block that has some
        model.backbone.norm,
        model.backbone.spm.norm,  # only half of it is frozen
    ]
    loop.run_step = run_step
    loop.register_hooks([FrozenNorms(model)])
    loop.train(0, 2)
    assert modes == [[False, False, False, True]] * 2


def test_norms_train_if_nothing_is_frozen() -> None:
    assert FrozenNorms(make_model()).norms == []


def test_optimizer_groups_leave_frozen_parameters_out() -> None:
    model = make_model()
    model.backbone.vit = PlainViT(img_size=16, embed_dim=2, depth=2, num_heads=1)
    rates = {}
    for freeze in (False, True):
        if freeze:
            freeze_parameters(model, ["blocks.0", "heads.*bias"])
        by_depth = layer_decay_param_groups(model, base_lr=1.0, weight_decay=0.0, decay_rate=0.5)
        by_key = custom_keys_param_groups(
            model, base_lr=1.0, weight_decay=0.0, custom_keys={"spm": {"lr_mult": 0.1}}
        )
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for groups in (by_depth, by_key):
            rates.setdefault(freeze, []).append(
                {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
            )
    # The remaining groups have the same rates as without freezing.
    for before, after in zip(rates[False], rates[True], strict=True):
        assert after == {name: before[name] for name in trainable(model)}
        assert len(after) < len(before)
