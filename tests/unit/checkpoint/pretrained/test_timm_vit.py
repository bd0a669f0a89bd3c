"""Published layouts for timm's ViTs: each is made from known weights, which must be read back."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm_layouts import DEPTH, DIM, HEADS, LAYOUTS, StateDict, as_dinov2, as_dinov3, jax_arrays
from torch import nn

from vit_adapter import TimmViT
from vit_adapter.checkpoint.files import CheckpointFileError
from vit_adapter.checkpoint.loading import CheckpointMismatchError
from vit_adapter.checkpoint.pretrained import load_pretrained_vit

SMALL = {"embed_dim": DIM} | HEADS


def make_vit(name: str, **options: object) -> TimmViT:
    torch.manual_seed(1)
    return TimmViT(name=name, depth=DEPTH, embed_dim=DIM, model_args=HEADS, **options)


def timm_weights(name: str, **options: object) -> StateDict:
    """A pre-trained model of timm, with its head and its own patch size."""
    torch.manual_seed(0)
    model = timm.create_model(name, depth=DEPTH, **SMALL, **options)
    return {key: torch.randn_like(value) for key, value in model.state_dict().items()}


def save(state_dict: StateDict, folder: Path) -> Path:
    torch.save({"model": state_dict}, folder / "vit.pth")
    return folder / "vit.pth"


@pytest.mark.parametrize(("name", "publish"), LAYOUTS.values(), ids=LAYOUTS)
def test_published_layouts_are_read_back(
    name: str, publish: Callable[[StateDict], tuple[StateDict, set[str]]], tmp_path: Path
) -> None:
    weights = timm_weights(name)
    published, unused = publish(weights)
    vit = make_vit(name)
    report = load_pretrained_vit(vit, save(published, tmp_path))
    assert set(report.unused) == unused
    assert report.missing == ()
    patch_14 = weights["patch_embed.proj.weight"].shape[-1] == 14
    assert [entry.name for entry in report.resized] == (
        ["model.patch_embed.proj.weight"] if patch_14 else []
    )
    for key, value in vit.model.state_dict().items():
        expected = published["rope_embed.periods"] if key == "rope.periods" else weights[key]
        if key == "patch_embed.proj.weight":
            expected = resample_patch_embed(expected, [16, 16])
        torch.testing.assert_close(value, expected, msg=lambda text, key=key: f"{key}: {text}")


def test_lora_factors_keep_their_initial_values(tmp_path: Path) -> None:
    name = "vit_base_patch14_reg4_dinov2"
    published, unused = as_dinov2(timm_weights(name))
    vit = make_vit(name, lora_rank=2)
    before = {key: value.clone() for key, value in vit.state_dict().items() if "lora_" in key}
    report = load_pretrained_vit(vit, save(published, tmp_path))
    assert set(report.unused) == unused
    assert set(report.missing) == set(before) and len(before) == 3 * 2 * vit.depth
    assert all(torch.equal(vit.state_dict()[key], value) for key, value in before.items())


def test_everything_in_the_file_is_accounted_for(tmp_path: Path) -> None:
    weights = timm_weights("vit_base_patch14_reg4_dinov2", num_classes=0)
    published, _ = as_dinov2(weights)
    report = load_pretrained_vit(
        make_vit("vit_base_patch14_reg4_dinov2", img_size=160), save(published, tmp_path)
    )
    trunk_names = {name.removeprefix("model.") for name in report.loaded}
    sources = {"reg_token": "register_tokens"}
    used = {sources.get(name, name) for name in trunk_names}
    assert used | set(report.unused) == set(published)
    assert {str(entry) for entry in report.resized} == {
        "model.pos_embed: (1, 1370, 48) -> (1, 100, 48)",
        "model.patch_embed.proj.weight: (48, 3, 14, 14) -> (48, 3, 16, 16)",
    }


def test_positions_are_resized_by_timm(tmp_path: Path) -> None:
    weights = timm_weights("deit_small_patch16_224")
    vit = make_vit("deit_small_patch16_224", img_size=96)
    load_pretrained_vit(vit, save(weights, tmp_path))
    expected = resample_abs_pos_embed(weights["pos_embed"], [6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(vit.model.pos_embed.data, expected)


def test_beit_tables_are_resized(tmp_path: Path) -> None:
    weights = timm_weights("beit_base_patch16_224")
    oracle = timm.create_model("beit_base_patch16_224", depth=DEPTH, **SMALL)
    oracle.load_state_dict(weights)
    oracle.set_input_size(img_size=(96, 96))
    vit = make_vit("beit_base_patch16_224", img_size=96)
    report = load_pretrained_vit(vit, save(weights, tmp_path))
    table = "blocks.1.attn.relative_position_bias_table"
    torch.testing.assert_close(vit.model.state_dict()[table], oracle.state_dict()[table])
    assert f"model.{table}" in [entry.name for entry in report.resized]


def test_weights_of_another_trunk_of_the_same_class(tmp_path: Path) -> None:
    vit, twin = make_vit("vit_small_patch16_dinov3"), make_vit("vit_small_patch16_dinov3")
    nn.init.normal_(vit.model.cls_token)
    report = load_pretrained_vit(twin, save(vit.state_dict(), tmp_path))
    assert report.is_exact
    assert all(map(torch.equal, twin.state_dict().values(), vit.state_dict().values()))


@pytest.mark.parametrize("joined", [False, True])
def test_siglip_archives_of_jax(joined: bool, tmp_path: Path) -> None:
    weights = timm_weights("vit_base_patch16_siglip_224")
    unused = {
        "params/img/Transformer/encoder_norm/scale", "params/img/MAPHead_0/probe", "params/t",
        "params/txt/Embed_0/embedding", "params/b",
    }  # fmt: skip
    arrays = jax_arrays(weights, joined) | {key: np.zeros(2, np.float32) for key in unused}
    np.savez(tmp_path / "siglip.npz", **arrays)
    vit = make_vit("vit_base_patch16_siglip_224")
    report = load_pretrained_vit(vit, tmp_path / "siglip.npz")
    assert set(report.unused) == unused
    assert (report.missing, report.resized) == ((), ())
    for key, value in vit.model.state_dict().items():
        torch.testing.assert_close(value, weights[key])


@pytest.mark.parametrize(
    ("name", "publish", "message"),
    [
        # registers that the model does not have, or has no weights for
        ("vit_base_patch14_dinov2", as_dinov2, "with registers .* without registers"),
        # another depth
        ("vit_base_patch14_reg4_dinov2", lambda w: ({k: v for k, v in as_dinov2(w)[0].items()
         if not k.startswith("blocks.1.")}, set()), r"missing.*model\.blocks\.1"),
        ("vit_base_patch14_reg4_dinov2", lambda w: (as_dinov2(w)[0] | {
            "blocks.2.norm1.bias": torch.ones(DIM)}, set()), r"blocks\.2\.norm1\.bias"),
        # another width
        ("vit_base_patch14_reg4_dinov2", lambda w: ({k: v[..., :24] for k, v in as_dinov2(w)[0]
         .items()}, set()), r"cannot be read as weights|misshapen"),
        ("vit_base_patch14_reg4_dinov2", lambda w: (as_dinov2(w)[0] | {
            "adapter.weight": torch.ones(2)}, set()), r"unused.*adapter\.weight"),
        ("vit_base_patch16_dinov3", as_dinov2, "vit_base_patch16_dinov3"),
        ("vit_base_patch16_224", as_dinov2, "vit_base_patch16_224"),
        ("samvit_base_patch16", as_dinov2, "samvit_base_patch16"),
        ("beit_base_patch16_224", as_dinov2, "beit_base_patch16_224"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    name: str,
    publish: Callable[[StateDict], tuple[StateDict, set[str]]],
    message: str,
    tmp_path: Path,
) -> None:
    published, _ = publish(timm_weights("vit_base_patch14_reg4_dinov2", num_classes=0))
    vit = make_vit(name)
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    with pytest.raises((CheckpointFileError, CheckpointMismatchError)) as refusal:
        load_pretrained_vit(vit, save(published, tmp_path))
    assert re.search(message, str(refusal.value), re.DOTALL)
    assert all(torch.equal(value, before[key]) for key, value in vit.state_dict().items())


def test_nonzero_biases_are_not_dropped(tmp_path: Path) -> None:
    """Biases of queries and values; test_published_layouts_are_read_back drops zero ones."""
    published, _ = as_dinov3(timm_weights("vit_small_patch16_dinov3_qkvb"))
    with pytest.raises(CheckpointFileError, match="biases of queries and values.*'_qkvb'"):
        load_pretrained_vit(make_vit("vit_small_patch16_dinov3"), save(published, tmp_path))
