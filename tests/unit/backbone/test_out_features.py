"""Backbones with only some outputs: parts that no output needs are frozen and do not run.

Distributed training waits for the gradient of each parameter that requires one.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
import torch
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from vit_adapter import BEiT, BEiTBaseline, PlainViT, TimmViT, UniPerceiver, ViTAdapter, ViTBaseline
from vit_adapter.backbone import ViTTrunk

DIM = 32
NAMES = ("res2", "res3", "res4", "res5")
SUBSETS = [names for count in (1, 2, 3, 4) for names in combinations(NAMES, count)]


def make_timm_vit(name: str) -> TimmViT:
    arguments = {"num_heads": 2}
    return TimmViT(name=name, embed_dim=DIM, depth=4, img_size=64, model_args=arguments)


SIZES = {"embed_dim": DIM, "depth": 4, "num_heads": 2, "img_size": 64}
TRUNKS: dict[str, Callable[[], ViTTrunk]] = {
    "plain": lambda: PlainViT(**SIZES),
    "vitdet": lambda: PlainViT(**SIZES, window_sizes=[2, 0, 2, 0], residual_indexes=[1, 3]),
    "beit": lambda: BEiT(**SIZES),
    "windowed beit": lambda: BEiT(**SIZES, class_token=False, window_sizes=[2] * 4),
    "uni-perceiver": lambda: UniPerceiver(**SIZES),
    "timm distilled": lambda: make_timm_vit("deit_tiny_distilled_patch16_224"),
    "timm registers": lambda: make_timm_vit("vit_base_patch14_reg4_dinov2"),
    "timm rotary": lambda: make_timm_vit("eva02_tiny_patch14_224"),
    "timm learned rotary": lambda: make_timm_vit("vit_small_patch16_rope_mixed_224"),
    "timm relative": lambda: make_timm_vit("beit_base_patch16_224"),
    "timm sam": lambda: make_timm_vit("samvit_base_patch16"),
}


def make_adapter(vit: ViTTrunk, out_features: Sequence[str], **changes: object) -> ViTAdapter:
    groups = [(0, 0), (1, 1), (2, 2), (3, 3)]
    arguments = {"conv_inplane": 4, "deform_num_heads": 2, "norm": "BN", **changes}
    return ViTAdapter(vit, interaction_indexes=groups, out_features=out_features, **arguments)


BACKBONES: dict[str, Callable[[ViTTrunk, Sequence[str]], Backbone]] = {
    "full": make_adapter,
    "full, tap by tap": lambda vit, names: make_adapter(
        vit, names, vit_feature_fusion="per_interaction"
    ),
    "frozen": lambda vit, names: make_adapter(vit, names, mode="frozen"),
    "light": lambda vit, names: make_adapter(vit, names, mode="light", vit_feature_fusion="none"),
    "ViT": lambda vit, names: ViTBaseline(vit, out_indexes=[0, 1, 2, 3], out_features=names),
    "ViT, early": lambda vit, names: ViTBaseline(vit, out_indexes=[1], out_features=names),
    "BEiT": lambda vit, names: BEiTBaseline(
        vit, out_indexes=[0, 1, 1, 2], norm="BN", out_features=names
    ),
}
CASES = [(backbone, "plain", subset) for backbone in BACKBONES for subset in SUBSETS]
CASES += [(backbone, trunk, ("res3",)) for backbone in BACKBONES for trunk in [*TRUNKS][1:]]
IDS = [(backbone, trunk, "+".join(subset)) for backbone, trunk, subset in CASES]


def randomise(model: nn.Module) -> nn.Module:
    """Random weights, so that all branches count."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def frozen_modules_that_run(model: nn.Module) -> set[str]:
    """A set that collects the names of fully frozen modules as they run."""
    names: set[str] = set()
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own and not any(p.requires_grad for p in own):
            module.register_forward_hook(lambda *_, name=name: names.add(name))
    return names


def total(outputs: dict[str, Tensor]) -> Tensor:
    """A scalar in which every element has its own weight."""
    weights = {k: torch.arange(v.numel(), dtype=v.dtype).view(v.shape) for k, v in outputs.items()}
    return sum((v * weights[k].sin()).sum() for k, v in outputs.items())


@pytest.mark.parametrize(("backbone", "trunk", "out_features"), CASES, ids=map("-".join, IDS))
def test_parts_that_no_output_needs_are_frozen_and_do_not_run(
    backbone: str, trunk: str, out_features: tuple[str, ...]
) -> None:
    model = randomise(BACKBONES[backbone](TRUNKS[trunk](), out_features)).train()
    ran_in_vain = frozen_modules_that_run(model)
    total(model(torch.randn(2, 3, 32, 64))).backward()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trainable
    if backbone == "frozen":
        ran_in_vain = {name for name in ran_in_vain if not name.startswith("vit.")}
    assert ran_in_vain == set()


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("out_features", [("res2",), ("res4",), ("res5", "res3")])
def test_fewer_outputs_are_the_same_numbers(backbone: str, out_features: tuple[str, ...]) -> None:
    complete = randomise(BACKBONES[backbone](TRUNKS["plain"](), NAMES)).eval()
    fewer = BACKBONES[backbone](TRUNKS["plain"](), out_features).eval()
    fewer.load_state_dict(complete.state_dict())
    images = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        expected, actual = complete(images), fewer(images)
    assert tuple(actual) == out_features
    torch.testing.assert_close(actual, {name: expected[name] for name in out_features})


@pytest.mark.parametrize(
    ("out_features", "expected"),
    [
        (("res2",), "stem conv2 fc1 fc2"),
        (("res3",), "stem conv2 fc2"),
        (("res4",), "stem conv2 conv3 fc3"),
        (("res5",), "stem conv2 conv3 conv4 fc4"),
        (("res4", "res2"), "stem conv2 conv3 fc1 fc2 fc3"),
    ],
)
@pytest.mark.parametrize("mode", ["frozen", "light"])
def test_without_injectors_priors_of_other_strides_are_not_needed(
    mode: str, out_features: tuple[str, ...], expected: str
) -> None:
    model = make_adapter(TRUNKS["plain"](), out_features, mode=mode)
    trained = {name.split(".")[0] for name, p in model.spm.named_parameters() if p.requires_grad}
    assert trained == set(expected.split())


def test_blocks_after_the_last_output_are_frozen() -> None:
    model = ViTBaseline(TRUNKS["plain"](), out_indexes=[0, 1, 2, 3], out_features=["res3", "res2"])
    trained = [any(p.requires_grad for p in b.parameters()) for b in model.vit.blocks]
    assert trained == [True, True, False, False]
