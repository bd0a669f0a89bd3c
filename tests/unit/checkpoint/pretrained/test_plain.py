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

DIM, DEPTH, HEADS, GRID = 24, 2, 3, 4


def make_timm(**options: object) -> timm.models.VisionTransformer:
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=GRID * 16, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, num_classes=5, **options
    )
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
    """The patch tokens before the final norm, with timm's class token left out of attention."""
    images = torch.randn(2, 3, GRID * 16, GRID * 16)
    tokens = oracle.patch_embed(images) + oracle.pos_embed[:, -GRID * GRID :]
    for block in oracle.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(trunk(images)[0], tokens, rtol=1e-4, atol=1e-4)


def test_deit_fits_and_what_it_has_besides_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    oracle, trunk = make_timm(), make_trunk()
    with caplog.at_level(logging.INFO, logger="vit_adapter"):
        report = load_pretrained_vit(trunk, save(oracle.state_dict(), tmp_path))
    assert_same_features(trunk, oracle)
    assert set(report.unused) == {
        "cls_token", "norm.weight", "norm.bias", "head.weight", "head.bias",
    }
    assert set(report.missing) == {
        f"blocks.{i}.gamma{j}" for i in range(DEPTH) for j in (1, 2)
    }
    for name in (*report.unused, *report.missing):
        assert name in caplog.text
    torch.testing.assert_close(trunk.blocks[0].gamma1, torch.ones(DIM))


def test_layer_scale_of_timm_is_renamed(tmp_path: Path) -> None:
    oracle, trunk = make_timm(init_values=1e-5), make_trunk()
    report = load_pretrained_vit(trunk, save(oracle.state_dict(), tmp_path))
    assert report.missing == ()
    assert_same_features(trunk, oracle)


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


def test_mae_decoder_is_passed_over(tmp_path: Path) -> None:
    state_dict = make_timm().state_dict()
    state_dict |= {"mask_token": torch.zeros(1, 1, 8), "decoder_blocks.0.x": torch.zeros(3)}
    report = load_pretrained_vit(make_trunk(), save(state_dict, tmp_path))
    assert {"mask_token", "decoder_blocks.0.x"} <= set(report.unused)


def test_another_grid_names_both_and_the_remedy(tmp_path: Path) -> None:
    trunk = make_trunk(img_size=96)
    before = trunk.patch_embed.proj.weight.clone()
    with pytest.raises(CheckpointMismatchError, match=r"4x4 grid.*6x6.*img_size=64"):
        load_pretrained_vit(trunk, save(make_timm().state_dict(), tmp_path))
    torch.testing.assert_close(trunk.patch_embed.proj.weight, before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda weights: weights.pop("blocks.1.attn.qkv.bias"), "blocks.1.attn.qkv.bias"),
        (lambda weights: weights.update({"blocks.2.norm1.bias": torch.ones(1)}),
         "blocks.2.norm1.bias"),
        (lambda weights: weights.update({"patch_embed.proj.weight": torch.ones(DIM, 3, 14, 14)}),
         "patch_embed.proj.weight"),
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


def test_layer_scale_that_the_trunk_lacks_is_refused(tmp_path: Path) -> None:
    oracle, trunk = make_timm(init_values=1e-5), make_trunk(layer_scale=False)
    with pytest.raises(CheckpointMismatchError, match=r"blocks\.0\.gamma1"):
        load_pretrained_vit(trunk, save(oracle.state_dict(), tmp_path))


def test_a_file_without_blocks_is_no_vit(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFileError, match=r"no plain ViT.*backbone\.a"):
        load_pretrained_vit(make_trunk(), save({"backbone.a": torch.ones(1)}, tmp_path))
