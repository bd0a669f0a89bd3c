"""Both rules on small modules with telling names; tests/oracle has real detectors."""

from collections.abc import Mapping

import pytest
import torch
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from vit_adapter.backbone import UniPerceiver, ViTTrunk
from vit_adapter.layers import GridSize
from vit_adapter.solver import custom_keys_param_groups, layer_decay_param_groups

NO_DECAY = {key: {"decay_mult": 0.0} for key in ("level_embed", "pos_embed", "norm", "bias")}
KEYS = {"base_lr": 1e-4, "weight_decay": 0.05, "custom_keys": NO_DECAY}
DEPTH = {"base_lr": 1.0, "weight_decay": 0.05, "decay_rate": 0.5}
BOTH_RULES = [(custom_keys_param_groups, KEYS), (layer_decay_param_groups, DEPTH)]


class _Trunk(ViTTrunk):
    """A ViT with arbitrary parameters, added later."""

    @property
    def depth(self) -> int:
        return len(self.blocks._modules)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": r"(?:pos_embed|cls_token|patch_embed)\b", "blocks": r"blocks\.(\d+)\."}

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed", "cls_token", "blocks.1.table"}

    def embed(self, images: Tensor) -> tuple[Tensor, GridSize]:
        raise NotImplementedError

    def forward_blocks(self, tokens: Tensor, grid: GridSize, start: int, stop: int) -> Tensor:
        raise NotImplementedError


class _Queries(nn.Module):
    """A head whose queries have no weight decay."""

    def __init__(self) -> None:
        super().__init__()
        self.feat = nn.Embedding(2, 2)
        self.fc = nn.Linear(2, 2, bias=False)

    def no_weight_decay(self) -> set[str]:
        return {"feat.weight"}


def _tree(shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A module with exactly these parameters, named by their dotted paths; "vit" is a ViT."""
    root = nn.Module()
    for path, shape in shapes.items():
        *owners, leaf = path.split(".")
        module = root
        for owner in owners:
            if owner not in module._modules:
                module.add_module(owner, _Trunk() if owner == "vit" else nn.Module())
            module = module._modules[owner]
        module.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))
    return root


def _by_name(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    names = {id(param): name for name, param in model.named_parameters()}
    return {
        names[id(param)]: (group["lr"], group["weight_decay"])
        for group in groups
        for param in group["params"]
    }


@pytest.mark.parametrize(
    ("name", "weight_decay"),
    [
        ("backbone.bottom_up.vit.pos_embed", 0.0),
        ("backbone.bottom_up.level_embed", 0.0),
        ("backbone.bottom_up.vit.blocks.0.norm1.weight", 0.0),
        ("backbone.bottom_up.vit.blocks.0.attn.qkv.bias", 0.0),
        ("backbone.bottom_up.norm3.weight", 0.0),
        ("backbone.bottom_up.vit.blocks.0.attn.qkv.weight", 0.05),
        ("backbone.bottom_up.vit.blocks.0.gamma1", 0.05),  # although 1-D
        ("backbone.bottom_up.interactions.0.injector.gamma", 0.05),  # although 1-D
        ("backbone.bottom_up.spm.stem.1.weight", 0.05),  # a batch norm
        ("backbone.bottom_up.vit.cls_token", 0.05),
    ],
)
def test_custom_keys_reads_names_only(name: str, weight_decay: float) -> None:
    model = _tree({name: (4,)})
    groups = custom_keys_param_groups(model, **KEYS)
    assert _by_name(model, groups) == {name: (1e-4, weight_decay)}


def test_custom_keys_only_the_longest_then_first_key_applies() -> None:
    keys = {
        "head": {"lr_mult": 10.0},
        "bias": {"decay_mult": 0.0},
        "rpn_head": {"lr_mult": 0.25, "decay_mult": 0.5},
    }
    model = _tree({"rpn_head.bias": (1,), "head.bias": (1,), "head.weight": (1,), "body": (1,)})
    groups = custom_keys_param_groups(model, base_lr=1.0, weight_decay=0.1, custom_keys=keys)
    assert _by_name(model, groups) == {
        "rpn_head.bias": (0.25, 0.05),  # the longest key
        "head.bias": (1.0, 0.0),  # "bias" before "head": no tenfold rate for the bias
        "head.weight": (10.0, 0.1),
        "body": (1.0, 0.1),
    }


def test_custom_keys_of_a_vit_do_not_apply_to_its_lora_factors() -> None:
    layer = "backbone.vit.blocks.0.attn.qkv"
    model = _tree({f"{layer}.{leaf}": (2, 2) for leaf in ("weight", "lora_a", "lora_b")})
    keys = {"backbone.vit": {"lr_mult": 0.1}, "lora_b": {"lr_mult": 16.0}}
    groups = custom_keys_param_groups(model, base_lr=1.0, weight_decay=0.1, custom_keys=keys)
    assert _by_name(model, groups) == {
        f"{layer}.weight": (0.1, 0.1),
        f"{layer}.lora_a": (1.0, 0.1),
        f"{layer}.lora_b": (16.0, 0.1),
    }


def test_layer_decay_spares_lora_factors() -> None:
    layer = "vit.blocks.0.attn.qkv"
    names = [f"{layer}.{leaf}" for leaf in ("weight", "lora_a", "lora_b")]
    model = _tree({name: (2, 2) for name in (*names, "vit.blocks.1.weight")})
    groups = layer_decay_param_groups(model, **DEPTH)
    rates = [_by_name(model, groups)[name] for name in names]
    assert rates == [(0.25, 0.05), (1.0, 0.05), (1.0, 0.05)]


def test_norm_key_does_not_match_the_norm_of_a_convolution() -> None:
    model = nn.Sequential(Conv2d(4, 4, 1, bias=False, norm=get_norm("BN", 4)), nn.LayerNorm(4))
    model.add_module("norm1", nn.LayerNorm(4))
    rates = _by_name(model, custom_keys_param_groups(model, **KEYS))
    # The original calls this norm "bn", so its weight is decayed, like that of "1".
    decayed = {name for name, (_, weight_decay) in rates.items() if weight_decay}
    assert decayed == {"0.weight", "0.norm.weight", "1.weight"}


def _vit(depth: int) -> dict[str, tuple[int, ...]]:
    block = {"norm1.weight": (2,), "gamma1": (2,), "attn.qkv.weight": (6, 2), "attn.qkv.bias": (6,)}
    return {
        "pos_embed": (1, 5, 2),
        "cls_token": (1, 1, 2),
        "patch_embed.proj.weight": (2, 3, 1, 1),
        "patch_embed.proj.bias": (2,),
        **{f"blocks.{i}.{name}": shape for i in range(depth) for name, shape in block.items()},
    }


@pytest.mark.parametrize("prefix", ["backbone.bottom_up.vit", "backbone.vit", "vit"])
def test_layer_decay_by_depth_and_rank(prefix: str) -> None:
    model = _tree(
        {
            **{f"{prefix}.{name}": shape for name, shape in _vit(depth=2).items()},
            "backbone.bottom_up.level_embed": (3, 2),
            "head.patch_embed.blocks.0.weight": (2, 2),  # not in the ViT, despite its name
            "head.bn.weight": (2,),
            "head.scale": (1,),
            "head.table.bias": (2, 2),
        }
    )
    rates = _by_name(model, layer_decay_param_groups(model, **DEPTH))
    assert rates == {
        # two blocks: layers 0 to 3
        f"{prefix}.pos_embed": (0.125, 0.05),
        f"{prefix}.cls_token": (0.125, 0.05),
        f"{prefix}.patch_embed.proj.weight": (0.125, 0.05),
        f"{prefix}.patch_embed.proj.bias": (0.125, 0.0),
        f"{prefix}.blocks.0.norm1.weight": (0.25, 0.0),
        f"{prefix}.blocks.0.gamma1": (0.25, 0.0),
        f"{prefix}.blocks.0.attn.qkv.weight": (0.25, 0.05),
        f"{prefix}.blocks.0.attn.qkv.bias": (0.25, 0.0),
        f"{prefix}.blocks.1.norm1.weight": (0.5, 0.0),
        f"{prefix}.blocks.1.gamma1": (0.5, 0.0),
        f"{prefix}.blocks.1.attn.qkv.weight": (0.5, 0.05),
        f"{prefix}.blocks.1.attn.qkv.bias": (0.5, 0.0),
        "backbone.bottom_up.level_embed": (1.0, 0.05),
        "head.patch_embed.blocks.0.weight": (1.0, 0.05),
        "head.bn.weight": (1.0, 0.0),
        "head.scale": (1.0, 0.0),
        "head.table.bias": (1.0, 0.0),
    }


def test_layer_decay_asks_the_vit_for_its_names() -> None:
    vit = UniPerceiver(img_size=16, embed_dim=4, depth=2, num_heads=1)
    model = nn.ModuleDict({"trunk": vit})  # it can be anywhere in the model
    rates = _by_name(model, layer_decay_param_groups(model, **DEPTH))
    expected = {
        "visual_embed.patch_embed.proj.weight": (0.125, 0.05),
        "visual_embed.patch_embed.temporal_pos_embed.weight": (0.125, 0.05),
        "visual_embed.embeddings_norm.weight": (0.125, 0.0),
        "layers.0.self_attn.in_proj.weight": (0.25, 0.05),
        "layers.1.linear1.weight": (0.5, 0.05),
        "layers.1.gamma_2": (0.5, 0.0),
    }
    assert {name: rates[f"trunk.{name}"] for name in expected} == expected


def test_layer_decay_refuses_a_vit_parameter_without_a_layer() -> None:
    model = _tree({"vit.blocks.0.weight": (2, 2), "vit.registers": (1, 4, 2)})
    with pytest.raises(ValueError, match="_Trunk does not say which layer registers belongs to"):
        layer_decay_param_groups(model, **DEPTH)


def test_layer_decay_has_one_group_per_rate_and_decay() -> None:
    shapes = {f"vit.{name}": shape for name, shape in _vit(depth=12).items()}
    model = _tree({**shapes, "head.bias": (2,)})
    groups = layer_decay_param_groups(model, **DEPTH)
    pairs = [(group["lr"], group["weight_decay"]) for group in groups]
    # 13 layers with and without decay; the head has only a vector.
    assert len(pairs) == len(set(pairs)) == 2 * 13 + 1


def test_layer_decay_names_that_count_as_first_layer() -> None:
    shapes = {"vit.blocks.0.weight": (2, 2), "head.query.weight": (2, 2), "head.mlp.bias": (2,)}
    model = _tree(shapes)
    groups = layer_decay_param_groups(model, first_layer_names=["head.query"], **DEPTH)
    assert _by_name(model, groups) == {
        "vit.blocks.0.weight": (0.5, 0.05),
        "head.query.weight": (0.25, 0.05),
        "head.mlp.bias": (1.0, 0.0),
    }


@pytest.mark.parametrize(("rule", "arguments"), BOTH_RULES)
def test_frozen_parameters_are_left_out_and_shared_ones_appear_once(rule, arguments) -> None:
    model = _tree({"vit.blocks.0.weight": (2, 2), "vit.blocks.1.weight": (2, 2), "head": (2, 2)})
    model.register_parameter("tied", model.head)
    model.vit.blocks.get_submodule("0").weight.requires_grad = False
    assert set(_by_name(model, rule(model, **arguments))) == {"vit.blocks.1.weight", "head"}
    assert sum(len(group["params"]) for group in rule(model, **arguments)) == 2
    optimizer = torch.optim.AdamW(rule(model, **arguments), lr=1.0)  # refuses duplicates
    assert [group["lr"] for group in optimizer.param_groups] != []

    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        rule(model, **arguments)


def test_refuses_values_out_of_range() -> None:
    model = _tree({"vit.blocks.0.weight": (2, 2)})
    for name, value in [("base_lr", 0.0), ("base_lr", float("nan")), ("weight_decay", -0.1)]:
        for rule, arguments in BOTH_RULES:
            with pytest.raises(ValueError, match=f"{name} must be .*got {value}"):
                rule(model, **{**arguments, name: value})
    for decay_rate in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"decay_rate must be in \(0, 1\]"):
            layer_decay_param_groups(model, **{**DEPTH, "decay_rate": decay_rate})
    with pytest.raises(ValueError, match=r"custom_keys\['norm'\] has \['wd_mult'\]; known are"):
        custom_keys_param_groups(model, **{**KEYS, "custom_keys": {"norm": {"wd_mult": 0.0}}})


def test_layer_decay_needs_a_vit() -> None:
    with pytest.raises(ValueError, match="needs a ViT, but Module holds no ViTTrunk"):
        layer_decay_param_groups(_tree({"trunk.blocks.0.weight": (2, 2)}), **DEPTH)


def test_layer_decay_without_the_originals_mistakes() -> None:
    embeddings = ["vit.pos_embed", "vit.cls_token", "vit.blocks.1.table", "head.feat.weight"]
    matrices = ["vit.patch_embed.weight", "vit.blocks.0.table", "neck.pos_embed", "head.fc.weight"]
    names = [name for name in embeddings + matrices if not name.startswith("head.")]
    model = _tree({name: (4, 4) for name in names})
    model.add_module("head", _Queries())
    options = {**DEPTH, "first_layer_names": ["head."]}
    published = _by_name(model, layer_decay_param_groups(model, **options))
    corrected = _by_name(model, layer_decay_param_groups(model, **options, as_published=False))
    assert {decay for _, decay in published.values()} == {0.05}
    assert {name for name, (_, decay) in corrected.items() if decay == 0.0} == set(embeddings)
    changed = {name for name in published if published[name][0] != corrected[name][0]}
    assert changed == {"head.feat.weight", "head.fc.weight"}
    assert {(published[name][0], corrected[name][0]) for name in changed} == {(0.5**3, 1.0)}
