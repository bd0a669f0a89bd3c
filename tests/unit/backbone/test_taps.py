"""What extractors and outputs read of the ViT: raw tokens or normed ones, at any patch size."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_adapter import PlainViT, TimmViT, ViTAdapter
from vit_adapter.backbone.modes import MODES

DIM = 24
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


def make_adapter(mode: str, vit: nn.Module | None = None, **changes: object) -> ViTAdapter:
    torch.manual_seed(0)
    if vit is None:
        vit = TimmViT(
            name="vit_small_patch16_dinov3",
            depth=4,
            embed_dim=DIM,
            final_norm=True,
            model_args={"num_heads": 2},
        )
    arguments = {
        "interaction_indexes": [(0, 0), (1, 1), (2, 2), (3, 3)],
        "conv_inplane": 4,
        "deform_num_heads": 2,
        "vit_feature_fusion": "per_interaction",
        "norm": "BN",
        **changes,
    }
    adapter = ViTAdapter(vit, mode=mode, **arguments)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(std=0.3)
    return adapter.double().eval()


def record_reads(adapter: ViTAdapter) -> list[Tensor]:
    """What each interaction's first extractor reads."""
    reads: list[Tensor] = []
    for interaction in adapter.interactions:
        interaction.extractor.register_forward_pre_hook(lambda _m, inputs: reads.append(inputs[1]))
    return reads


@torch.no_grad()
@pytest.mark.parametrize("mode", ["frozen", "light"])
def test_taps_pass_the_final_norm(mode: str) -> None:
    raw = make_adapter(mode)
    normed = make_adapter(mode, norm_taps=True)
    normed.load_state_dict(raw.state_dict())
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    raw_reads, normed_reads = record_reads(raw), record_reads(normed)
    expected, outputs = raw(images), normed(images)
    norm = normed.vit.model.norm
    for before, after in zip(raw_reads, normed_reads, strict=True):
        layer_norm = F.layer_norm(before, (DIM,), norm.weight, norm.bias, norm.eps)
        torch.testing.assert_close(after, layer_norm)
    assert all(not torch.equal(outputs[name], expected[name]) for name in STRIDES)


@torch.no_grad()
def test_outputs_add_the_normed_taps() -> None:
    """With extractors and priors that give nothing, only the resized taps remain."""
    adapter = make_adapter("frozen", norm_taps=True)
    for module in (adapter.spm, adapter.interactions, adapter.up):
        for parameter in module.parameters():
            parameter.zero_()
    adapter.level_embed.zero_()
    for norm in (adapter.norm1, adapter.norm2, adapter.norm3, adapter.norm4):
        nn.init.ones_(norm.weight), nn.init.zeros_(norm.bias)
        norm.eps = 1e-30  # must be positive
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    outputs, taps = adapter(images), adapter.read_taps(images)
    for tap, (name, stride) in zip(taps, STRIDES.items(), strict=True):
        grid = tap.transpose(1, 2).unflatten(2, (4, 6))
        size = (64 // stride, 96 // stride)
        resized = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(outputs[name], resized)


def test_the_final_norm_trains_only_where_it_is_used() -> None:
    trains = {
        (mode, on): make_adapter(mode, norm_taps=on).vit.final_norm.weight.requires_grad
        for mode in MODES
        for on in (False, True)
    }
    assert {setting for setting, trained in trains.items() if trained} == {("light", True)}


@torch.no_grad()
def test_injectors_need_raw_tokens() -> None:
    images = torch.randn(1, 3, 32, 64, dtype=torch.float64)
    plain, ignored = make_adapter("full"), make_adapter("full", norm_taps=True)
    ignored.load_state_dict(plain.state_dict())
    torch.testing.assert_close(ignored(images), plain(images), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["frozen", "light"])
def test_a_vit_without_its_final_norm(mode: str) -> None:
    vit = PlainViT(img_size=64, embed_dim=DIM, depth=4, num_heads=2)
    with pytest.raises(ValueError, match=r"this PlainViT has none; build it with TimmViT\(final_"):
        make_adapter(mode, vit, norm_taps=True)


@pytest.mark.parametrize("mode", MODES)
def test_the_adapter_can_have_its_own_epsilon(mode: str) -> None:
    def found(adapter: ViTAdapter) -> set[float]:
        modules = adapter.interactions.modules()
        return {module.eps for module in modules if isinstance(module, nn.LayerNorm)}

    assert found(make_adapter(mode)) == {1e-5}
    adapter = make_adapter(mode, norm_eps=1e-6)
    assert found(adapter) == {1e-6}
    assert adapter.vit.model.blocks[0].norm1.eps == 1e-5


def make_vit_of(patch_size: int) -> PlainViT:
    side = 4 * patch_size
    return PlainViT(
        img_size=side, patch_size=patch_size, embed_dim=DIM, depth=4, num_heads=2,
        window_sizes=(0, 3, 0, 2),
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("patch_size", [8, 14, 32])
@pytest.mark.parametrize("size", [(70, 33), (128, 224)])
def test_any_patch_size(mode: str, patch_size: int, size: tuple[int, int]) -> None:
    adapter = make_adapter(mode, make_vit_of(patch_size))
    outputs = adapter(torch.randn(1, 3, *size, dtype=torch.float64))
    for name, stride in STRIDES.items():
        assert outputs[name].shape[-2:] == (-(-size[0] // stride), -(-size[1] // stride))


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_the_vit_sees_whole_patches_only(mode: str) -> None:
    adapter = make_adapter(mode, make_vit_of(14))
    seen = []
    adapter.vit.patch_embed.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    reads = record_reads(adapter)
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    adapter(images)
    assert torch.equal(seen[0], images[..., :56, :84])
    assert reads[0].shape == (1, 4 * 6, DIM)


def test_patch_14_has_gradients_everywhere() -> None:
    adapter = make_adapter("full", make_vit_of(14)).train()
    outputs = adapter(torch.randn(2, 3, 64, 96, dtype=torch.float64))
    sum(value.square().sum() for value in outputs.values()).backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())


@torch.no_grad()
def test_patch_14_adds_its_grid_to_the_outputs_by_size() -> None:
    adapter = make_adapter("full", make_vit_of(14))
    images = torch.randn(1, 3, 64, 128, dtype=torch.float64)
    taps = []
    for interaction in adapter.interactions:
        interaction.register_forward_hook(lambda _m, _i, outputs: taps.append(outputs[0]))
    for norm in (adapter.norm1, adapter.norm2, adapter.norm3, adapter.norm4):
        norm.reset_parameters()
    outputs = adapter(images)
    adapter.vit_feature_fusion = "none"
    without = adapter(images)
    for tap, (name, stride), norm in zip(
        taps[:4], STRIDES.items(), (adapter.norm1, adapter.norm2, adapter.norm3, adapter.norm4),
        strict=True,
    ):  # fmt: skip
        grid = tap.transpose(1, 2).unflatten(2, (4, 9))
        size = (64 // stride, 128 // stride)
        resized = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
        scale = (1 + norm.eps) ** -0.5  # running mean 0 and variance 1
        torch.testing.assert_close(outputs[name] - without[name], resized * scale)
