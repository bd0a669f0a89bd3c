"""Weights of another size or kind: the message describes both sides."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vit_adapter import TimmViT
from vit_adapter.backbone import PlainViT
from vit_adapter.checkpoint.files import CheckpointFileError
from vit_adapter.checkpoint.loading import CheckpointMismatchError
from vit_adapter.checkpoint.pretrained import load_pretrained_vit

KINDS = {
    "vit_small_patch14_dinov2": "with learned positions and without registers, like DINOv2",
    "vit_small_patch14_reg4_dinov2": "with registers and learned positions, like DINOv2 with "
    "registers",
    "vit_small_patch16_dinov3_qkvb": "with registers and without learned positions, like DINOv3",
}
PAIRS = [(found, model) for found in KINDS for model in KINDS if found != model]


def timm_vit(name: str, depth: int = 1, embed_dim: int = 24) -> TimmViT:
    return TimmViT(name=name, depth=depth, embed_dim=embed_dim, model_args={"num_heads": 3})


def published(name: str) -> dict[str, Tensor]:
    """The weights with their authors' names of the registers."""
    weights = {key.removeprefix("model."): x for key, x in timm_vit(name).state_dict().items()}
    if "reg_token" in weights:
        published_name = "storage_tokens" if "dinov3" in name else "register_tokens"
        weights[published_name] = weights.pop("reg_token")
    return weights


@pytest.mark.parametrize(("found", "model"), PAIRS)
def test_another_kind_is_named(tmp_path: Path, found: str, model: str) -> None:
    torch.save(published(found), tmp_path / "vit.pth")
    vit = timm_vit(model)
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    with pytest.raises(CheckpointFileError) as refused:
        load_pretrained_vit(vit, tmp_path / "vit.pth")
    message = str(refused.value)
    assert f"holds a ViT {KINDS[found]}, but" in message
    assert f"but timm's {model!r} is one {KINDS[model]}. Nothing was loaded" in message
    assert "the name of the model that the weights belong to" in message
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())


def test_another_size_is_named(tmp_path: Path) -> None:
    torch.save(timm_vit("vit_small_patch14_dinov2").state_dict(), tmp_path / "vit.pth")
    sizes = r"fit the trunk \(1 blocks of width 24 in the checkpoint, 2 of width 48 in the model\)"
    with pytest.raises(CheckpointMismatchError, match=sizes):
        vit = timm_vit("vit_small_patch14_dinov2", depth=2, embed_dim=48)
        load_pretrained_vit(vit, tmp_path / "vit.pth")
    plain = PlainViT(img_size=64, embed_dim=24, depth=1, num_heads=3)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    with pytest.raises(CheckpointMismatchError, match=sizes):
        vit = PlainViT(img_size=64, embed_dim=48, depth=2, num_heads=3)
        load_pretrained_vit(vit, tmp_path / "plain.pth")


def test_equal_sizes_are_not_mentioned(tmp_path: Path) -> None:
    weights = PlainViT(img_size=64, embed_dim=24, depth=1, num_heads=3).state_dict()
    torch.save(weights | {"surplus": torch.zeros(1)}, tmp_path / "plain.pth")
    with pytest.raises(CheckpointMismatchError, match=r"does not fit the trunk\. Nothing"):
        vit = PlainViT(img_size=64, embed_dim=24, depth=1, num_heads=3)
        load_pretrained_vit(vit, tmp_path / "plain.pth")
