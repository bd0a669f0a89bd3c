"""Weights of plain ViTs for the trunk, with timm's ViT as the oracle."""

import logging
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from vit_adapter.backbone.plain_vit import PlainViT
from vit_adapter.checkpoint.files import CheckpointFileError
from vit_adapter.checkpoint.loading import CheckpointMismatchError
from vit_adapter.checkpoint.pretrained import load_pretrained_vit
from vit_adapter.checkpoint.pretrained.patch_kernel import resize_patch_kernel

DIM, DEPTH, HEADS, GRID = 24, 2, 3, 4


def make_timm(**options: object) -> timm.models.VisionTransformer:
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        embed_dim=DIM, depth=DEPTH, num_heads=HEADS,
        **{"img_size": GRID * 16, "num_classes": 5, **options},
    )  # fmt: skip
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def make_trunk(**options: object) -> PlainViT:
    torch.manual_seed(1)
    settings = {"img_size": GRID * 16} | options
    return PlainViT(embed_dim=DIM, depth=DEPTH, num_heads=HEADS, **settings).eval()


def save(state_dict: dict[str, Tensor], folder: Path) -> Path:
    torch.save({"model": state_dict}, folder / "vit.pth")
    return folder / "vit.pth"


@torch.no_grad()
def assert_same_features(trunk: PlainViT, oracle: timm.models.VisionTransformer) -> None:
    """The patch tokens before the final norm, without timm's class token in attention."""
    images = torch.randn(2, 3, GRID * 16, GRID * 16)
    tokens = oracle.patch_embed(images) + oracle.pos_embed[:, -GRID * GRID :]
    for block in oracle.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(trunk(images)[0], tokens, rtol=1e-4, atol=1e-4)


def test_deit_fits_and_its_extra_names_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    oracle, trunk = make_timm(), make_trunk()
    with caplog.at_level(logging.INFO, logger="vit_adapter"):
        report = load_pretrained_vit(trunk, save(oracle.state_dict(), tmp_path))
    assert_same_features(trunk, oracle)
    assert set(report.unused) == {
        "cls_token",
        "norm.weight",
        "norm.bias",
        "head.weight",
        "head.bias",
    }
    assert set(report.missing) == {f"blocks.{i}.gamma{j}" for i in range(DEPTH) for j in (1, 2)}
    for name in (*report.unused, *report.missing):
        assert name in caplog.text
    torch.testing.assert_close(trunk.blocks[0].gamma1, torch.ones(DIM))


def test_layer_scale_of_timm_is_renamed(tmp_path: Path) -> None:
    oracle, trunk = make_timm(init_values=1e-5), make_trunk()
    report = load_pretrained_vit(trunk, save(oracle.state_dict(), tmp_path))
    assert report.missing == ()
    assert_same_features(trunk, oracle)


def test_two_spellings_of_a_layer_scale_are_refused(tmp_path: Path) -> None:
    state_dict = make_timm(init_values=1e-5).state_dict()
    state_dict["blocks.1.gamma_2"] = torch.ones(DIM)
    with pytest.raises(CheckpointFileError, match=r"both 'blocks\.1\.ls2\.gamma' and .*gamma_2'"):
        load_pretrained_vit(make_trunk(), save(state_dict, tmp_path))


def test_position_embedding_without_a_class_row_gets_one(tmp_path: Path) -> None:
    oracle, trunk = make_timm(no_embed_class=True), make_trunk()
    report = load_pretrained_vit(trunk, save(oracle.state_dict(), tmp_path))
    assert report.resized == (("pos_embed", (1, 16, DIM), (1, 17, DIM)),)
    torch.testing.assert_close(trunk.pos_embed[:, 1:], oracle.pos_embed)
    assert_same_features(trunk, oracle)


def test_residual_blocks_keep_their_initial_values(tmp_path: Path) -> None:
    trunk = make_trunk(residual_indexes=[1], layer_scale=False)
    report = load_pretrained_vit(trunk, save(make_timm().state_dict(), tmp_path))
    assert report.missing
    assert all(name.startswith("blocks.1.residual.") for name in report.missing)


def test_lora_factors_keep_their_initial_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trunk = make_trunk(lora_rank=2)
    with caplog.at_level(logging.INFO, logger="vit_adapter"):
        report = load_pretrained_vit(trunk, save(make_timm().state_dict(), tmp_path))
    assert "blocks.1.gamma2, 12 tensors of LoRA" in caplog.text
    assert_same_features(trunk, make_timm())
    assert "blocks.0.attn.qkv.lora_b" in report.missing
    assert not trunk.blocks[0].attn.qkv.lora_b.any()


def test_mae_decoder_is_skipped(tmp_path: Path) -> None:
    state_dict = make_timm().state_dict()
    state_dict |= {"mask_token": torch.zeros(1, 1, 8), "decoder_blocks.0.x": torch.zeros(3)}
    report = load_pretrained_vit(make_trunk(), save(state_dict, tmp_path))
    assert {"mask_token", "decoder_blocks.0.x"} <= set(report.unused)


def test_another_grid_is_refused_with_both_grids_and_a_remedy(tmp_path: Path) -> None:
    trunk = make_trunk(img_size=96)
    before = trunk.patch_embed.proj.weight.clone()
    with pytest.raises(CheckpointMismatchError, match=r"4x4 grid.*6x6.*img_size=64"):
        load_pretrained_vit(trunk, save(make_timm().state_dict(), tmp_path))
    torch.testing.assert_close(trunk.patch_embed.proj.weight, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda weights: weights.pop("blocks.1.attn.qkv.bias"), "blocks.1.attn.qkv.bias"),
        (
            lambda weights: weights.update({"blocks.2.norm1.bias": torch.ones(1)}),
            "blocks.2.norm1.bias",
        ),
        (
            lambda weights: weights.update({"patch_embed.proj.weight": torch.ones(DIM, 3, 32, 32)}),
            "patch_embed.proj.weight",
        ),
    ],
)
def test_another_architecture_is_refused(tmp_path: Path, change: object, name: str) -> None:
    state_dict = make_timm().state_dict()
    change(state_dict)
    trunk = make_trunk()
    before = trunk.pos_embed.clone()
    with pytest.raises(CheckpointMismatchError, match=name):
        load_pretrained_vit(trunk, save(state_dict, tmp_path))
    torch.testing.assert_close(trunk.pos_embed, before, rtol=0, atol=0)


def test_layer_scale_that_the_trunk_does_not_have_is_refused(tmp_path: Path) -> None:
    oracle, trunk = make_timm(init_values=1e-5), make_trunk(layer_scale=False)
    with pytest.raises(CheckpointMismatchError, match=r"blocks\.0\.gamma1"):
        load_pretrained_vit(trunk, save(oracle.state_dict(), tmp_path))


def test_a_file_without_blocks_is_not_a_vit(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFileError, match=r"no known plain ViT.*backbone\.a"):
        load_pretrained_vit(make_trunk(), save({"backbone.a": torch.ones(1)}, tmp_path))


def make_dinov2(**options: object) -> dict[str, Tensor]:
    """Weights in DINOv2's layout: patches of 14 pixels, layer scale, a mask token."""
    oracle = make_timm(
        patch_size=14, init_values=1e-5, **{"img_size": GRID * 14, "num_classes": 0, **options}
    )
    weights = oracle.state_dict()
    return weights | {"mask_token": torch.ones(1, DIM)}


@pytest.mark.parametrize("method", ["pseudo_inverse", "bilinear"])
def test_dinov2_at_patches_of_16(tmp_path: Path, method: str) -> None:
    weights, trunk = make_dinov2(), make_trunk()
    report = load_pretrained_vit(trunk, save(weights, tmp_path), patch_resize=method)
    kernel = "patch_embed.proj.weight"
    assert report.resized == ((kernel, (DIM, 3, 14, 14), (DIM, 3, 16, 16)),)
    expected = resize_patch_kernel(weights[kernel], 16, method)
    torch.testing.assert_close(trunk.patch_embed.proj.weight.data, expected, rtol=0, atol=0)
    torch.testing.assert_close(trunk.pos_embed.data, weights["pos_embed"], rtol=0, atol=0)
    assert set(report.unused) == {"cls_token", "mask_token", "norm.weight", "norm.bias"}
    assert report.missing == ()
    scales = weights["blocks.1.ls2.gamma"]
    torch.testing.assert_close(trunk.blocks[1].gamma2.data, scales, rtol=0, atol=0)


def test_the_grid_of_dinov2_is_given_in_pixels_of_the_trunk(tmp_path: Path) -> None:
    path = save(make_dinov2(), tmp_path)
    with pytest.raises(CheckpointMismatchError, match=r"4x4 grid \(64 pixels.*img_size=64"):
        load_pretrained_vit(make_trunk(img_size=96), path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"register_tokens": (1, 4, DIM)}, "registers, but .* a PlainViT.*with a TimmViT"),
        ({"blocks.0.mlp.w12.weight": (8, DIM)}, "SwiGLU, but .* a PlainViT.*with a TimmViT"),
        ({"rope_embed.periods": (4,)}, "rotary positions .*, but the model has a PlainViT"),
        ({"visual_embed.embeddings_norm.bias": (DIM,)}, "holds Uni-Perceiver, but the"),
    ],
)
def test_other_families_are_refused(
    tmp_path: Path, names: dict[str, tuple[int, ...]], message: str
) -> None:
    weights = make_dinov2() | {name: torch.zeros(shape) for name, shape in names.items()}
    with pytest.raises(CheckpointFileError, match=message):
        load_pretrained_vit(make_trunk(), save(weights, tmp_path))


def test_layer_scale_of_deit_iii_is_renamed(tmp_path: Path) -> None:
    oracle, trunk = make_timm(init_values=1e-5), make_trunk()
    weights = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value
        for name, value in oracle.state_dict().items()
    }
    load_pretrained_vit(trunk, save(weights, tmp_path))
    assert_same_features(trunk, oracle)
