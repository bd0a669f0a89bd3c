"""Weights of Uni-Perceiver for the trunk."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vit_adapter.backbone import BEiT, UniPerceiver
from vit_adapter.checkpoint.files import CheckpointFileError
from vit_adapter.checkpoint.loading import CheckpointMismatchError
from vit_adapter.checkpoint.pretrained import load_pretrained_vit

SIZES = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3}
EXTRAS = {
    "token_embed.embeddings.weight": (30, 24),
    "loss_prepare.bias": (4,),
    "logit_scale": (),
    "video_embed.embeddings_type.weight": (1, 24),
}


def random_weights() -> dict[str, Tensor]:
    names = UniPerceiver(**SIZES).state_dict()
    return {name: torch.randn_like(value) for name, value in names.items()}


def as_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the trunk's weights to the names of the pre-training."""
    raw = {}
    for name, value in weights.items():
        if name.startswith("layers."):
            name = "fused_encoder." + name.replace("in_proj.", "in_proj_")
        name = name.replace("patch_embed.proj.", "embeddings.")
        name = re.sub(r"patch_embed\.(?=\w+_pos_embed)", "embeddings_st_pos.", name)
        raw[name.replace("visual_embed.", "video_embed.")] = value
    return raw | {name: torch.ones(shape) for name, shape in EXTRAS.items()}


def save(weights: dict[str, Tensor], folder: Path, container: str | None = "model") -> Path:
    torch.save({container: weights} if container else weights, folder / "uni.pth")
    return folder / "uni.pth"


def test_published_names(tmp_path: Path) -> None:
    weights, trunk = random_weights(), UniPerceiver(**SIZES)
    raw = as_published(weights)
    assert "fused_encoder.layers.0.self_attn.in_proj_weight" in raw
    assert "video_embed.embeddings_st_pos.spatial_pos_embed.weight" in raw
    report = load_pretrained_vit(trunk, save(raw, tmp_path))
    torch.testing.assert_close(dict(trunk.state_dict()), weights, rtol=0, atol=0)
    assert len(report.unused) == len(EXTRAS)


def test_converted_names(tmp_path: Path) -> None:
    weights, trunk = random_weights(), UniPerceiver(**SIZES)
    report = load_pretrained_vit(trunk, save(weights, tmp_path, None))
    torch.testing.assert_close(dict(trunk.state_dict()), weights, rtol=0, atol=0)
    assert report.is_exact


def test_two_spellings_of_a_name_are_refused(tmp_path: Path) -> None:
    weights = random_weights()
    weights["video_embed.embeddings.bias"] = torch.ones(24)
    with pytest.raises(CheckpointFileError, match=r"both .*proj\.bias' and 'video_embed"):
        load_pretrained_vit(UniPerceiver(**SIZES), save(weights, tmp_path))


def _experts(weights: dict[str, Tensor]) -> None:
    weights["layers.1.experts.0.weight"] = torch.ones(2)


def _no_layer_scale(weights: dict[str, Tensor]) -> None:
    """Layer scale starts at zero, so without its weights the network would do nothing."""
    del weights["layers.0.gamma_1"]


def _other_grid(weights: dict[str, Tensor]) -> None:
    weights["visual_embed.patch_embed.spatial_pos_embed.weight"] = torch.ones(9, 24)


def _deeper(weights: dict[str, Tensor]) -> None:
    weights["layers.2.norm1.weight"] = torch.ones(24)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (_experts, "layers.1.experts.0.weight"),
        (_no_layer_scale, "layers.0.gamma_1"),
        (_other_grid, "visual_embed.patch_embed.spatial_pos_embed.weight"),
        (_deeper, "layers.2.norm1.weight"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: object, name: str) -> None:
    weights, trunk = random_weights(), UniPerceiver(**SIZES)
    change(weights)
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    with pytest.raises(CheckpointMismatchError, match=name):
        load_pretrained_vit(trunk, save(weights, tmp_path))
    torch.testing.assert_close(dict(trunk.state_dict()), before, rtol=0, atol=0)


def test_other_families_are_refused(tmp_path: Path) -> None:
    path = save(random_weights(), tmp_path)
    with pytest.raises(CheckpointFileError, match=r"but the model has a BEiT\. .*Build"):
        load_pretrained_vit(BEiT(**SIZES), path)
    path = save(BEiT(**SIZES).state_dict(), tmp_path)
    with pytest.raises(CheckpointFileError, match="BEiT .*, but the model has a UniPerceiver"):
        load_pretrained_vit(UniPerceiver(**SIZES), path)
