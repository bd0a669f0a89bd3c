"""The contract between a ViT and what is attached to it."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from vit_adapter import ViTAdapter, ViTBaseline
from vit_adapter.backbone import BEiT, PlainViT, TimmViT, UniPerceiver, ViTTrunk
from vit_adapter.layers import GridSize


class ToyTrunk(ViTTrunk):
    """The minimal ViT, with two prefix tokens and its own epsilon."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_dim, self.depth, self.patch_size, self.num_prefix_tokens = 32, 4, 16, 2
        self.norm_layer = partial(nn.LayerNorm, eps=1e-5)
        self.prefix = nn.Parameter(torch.randn(1, 2, 32))
        self.proj = nn.Conv2d(3, 32, 16, stride=16)
        self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))

    def embed(self, images: Tensor) -> tuple[Tensor, GridSize]:
        features = self.proj(images)
        patches = features.flatten(2).transpose(1, 2)
        prefix = self.prefix.expand(len(images), -1, -1)
        return torch.cat([prefix, patches], 1), (features.shape[2], features.shape[3])

    def forward_blocks(self, tokens: Tensor, grid: GridSize, start: int, stop: int) -> Tensor:
        assert tokens.shape[1] == 2 + grid[0] * grid[1]
        for block in self.blocks[start:stop]:
            tokens = tokens + block(tokens) + tokens.mean(1, keepdim=True)
        return tokens

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": r"(?:prefix|proj)\b", "blocks": r"blocks\.(\d+)\."}

    def no_weight_decay(self) -> set[str]:
        return {"prefix"}


def make_adapter() -> ViTAdapter:
    indexes = [(0, 0), (1, 1), (2, 3)]
    return ViTAdapter(ToyTrunk(), interaction_indexes=indexes, conv_inplane=4, deform_num_heads=2)


def test_any_trunk_can_have_an_adapter() -> None:
    adapter = make_adapter()
    outputs = adapter(torch.randn(2, 3, 40, 64))
    assert {name: tuple(f.shape) for name, f in outputs.items()} == {
        "res2": (2, 32, 10, 16),
        "res3": (2, 32, 5, 8),
        "res4": (2, 32, 3, 4),
        "res5": (2, 32, 2, 2),
    }
    sum(f.square().sum() for f in outputs.values()).backward()
    assert adapter.vit.prefix.grad.abs().sum() > 0


def test_norms_have_the_trunks_epsilon() -> None:
    norms = [m for m in make_adapter().interactions.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 3 * 5 + 2 * 3
    assert {norm.eps for norm in norms} == {1e-5}


def test_zero_gamma_changes_neither_prefix_nor_patches() -> None:
    adapter = make_adapter().eval()
    streams = []
    adapter.interactions[-1].register_forward_hook(lambda _m, _i, out: streams.append(out[0]))
    images = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        adapter(images)
        assert torch.equal(streams[0], adapter.vit(images)[0])


def test_any_trunk_can_be_a_baseline() -> None:
    baseline = ViTBaseline(ToyTrunk(), out_indexes=[0, 1, 2, 3])
    assert baseline(torch.randn(1, 3, 32, 64))["res4"].shape == (1, 32, 2, 4)


def test_a_trunk_must_be_complete() -> None:
    class Incomplete(ViTTrunk):
        def embed(self, images: Tensor) -> tuple[Tensor, GridSize]:
            return images, (1, 1)

    with pytest.raises(TypeError, match="forward_blocks.*group_matcher.*no_weight_decay"):
        Incomplete()


SIZES = {"embed_dim": 12, "depth": 2}
TRUNKS = {
    "plain": lambda: PlainViT(img_size=32, num_heads=1, residual_indexes=[1], **SIZES),
    "beit": lambda: BEiT(img_size=32, num_heads=1, **SIZES),
    "uni_perceiver": lambda: UniPerceiver(img_size=32, num_heads=1, **SIZES),
    "timm": lambda: TimmViT(
        name="vit_base_patch14_reg4_dinov2", img_size=32, model_args={"num_heads": 1}, **SIZES
    ),
    "toy": ToyTrunk,
}


@pytest.mark.parametrize("make", TRUNKS.values(), ids=TRUNKS)
def test_a_trunk_assigns_layers_as_timm_does(make: Callable[[], ViTTrunk]) -> None:
    trunk = make()
    layers = trunk.parameter_layers()
    assert layers == group_parameters(trunk, trunk.group_matcher(), reverse=True)
    assert set(layers.values()) == set(range(trunk.depth + 1))


@pytest.mark.parametrize(
    ("kind", "spared"),
    [
        ("plain", {"pos_embed"}),
        ("beit", {"cls_token"} | {f"blocks.{i}.attn.relative_position_bias_table" for i in (0, 1)}),
        ("uni_perceiver", {f"visual_embed.patch_embed.{axis}_pos_embed.weight"
                           for axis in ("spatial", "temporal")}),
        ("timm", {"model.pos_embed", "model.cls_token", "model.reg_token"}),
    ],
)  # fmt: skip
def test_positions_and_tokens_are_not_decayed(kind: str, spared: set[str]) -> None:
    trunk = TRUNKS[kind]()
    assert trunk.no_weight_decay() & set(dict(trunk.named_parameters())) == spared


def test_a_parameter_without_a_layer_is_named() -> None:
    trunk = ToyTrunk()
    trunk.head = nn.Linear(32, 1, bias=False)
    trunk.blocks.append(nn.Linear(32, 32, bias=False))  # beyond the depth
    with pytest.raises(
        ValueError, match=r"layer blocks\.4\.weight, head\.weight belongs.*4 blocks"
    ):
        trunk.parameter_layers()


@pytest.mark.parametrize("make", TRUNKS.values(), ids=TRUNKS)
def test_inference_equals_training_after_each_change_of_the_weights(
    make: Callable[[], ViTTrunk],
) -> None:
    trunk = make().eval()
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.normal_(std=0.2)
    images = torch.randn(1, 3, 32, 64)  # another grid than that of the positions
    for _ in range(2):
        expected, _ = trunk(images)
        with torch.no_grad():
            for _ in range(2):  # the second call may read what the first one kept
                torch.testing.assert_close(trunk(images)[0], expected)
            for parameter in trunk.parameters():
                parameter.mul_(1.1)
