"""Finding the trunk inside a model and the reader for it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vit_adapter.backbone import PlainViT, ViTTrunk
from vit_adapter.checkpoint.pretrained import find_trunk, load_pretrained_vit, trunk_names


class _Trunk(ViTTrunk):
    """A ViT of a family without a reader."""

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return images.flatten(2), (1, 1)

    def forward_blocks(
        self, tokens: Tensor, grid: tuple[int, int], start: int, stop: int
    ) -> Tensor:
        return tokens

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": "", "blocks": ""}

    def no_weight_decay(self) -> set[str]:
        return set()


class _Derived(PlainViT):
    """A subclass, read like its parent."""


def test_the_trunk_of_a_model_is_found() -> None:
    trunk = _Trunk()
    assert find_trunk(nn.ModuleDict({"backbone": nn.Sequential(trunk)})) is trunk
    with pytest.raises(ValueError, match="this one has 0"):
        find_trunk(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="this one has 2"):
        find_trunk(nn.Sequential(trunk, _Trunk()))


def test_the_names_of_the_trunks_of_a_model() -> None:
    trunk = _Derived(img_size=32, embed_dim=8, depth=1, num_heads=1)
    names = {name for name, _ in trunk.named_parameters()}
    assert trunk_names(trunk) == names
    model = nn.ModuleDict({"backbone": nn.Sequential(trunk), "head": nn.Linear(1, 1)})
    assert trunk_names(model) == {f"backbone.0.{name}" for name in names}
    assert not trunk_names(model["head"])


def test_an_unknown_family_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no reader .* for a _Trunk, only for .*PlainViT"):
        load_pretrained_vit(_Trunk(), tmp_path / "unread.pth")


def test_a_subclass_is_read_like_its_parent(tmp_path: Path) -> None:
    trunk = _Derived(img_size=32, embed_dim=8, depth=1, num_heads=1)
    weights = {name: torch.randn_like(value) for name, value in trunk.state_dict().items()}
    torch.save(weights, tmp_path / "vit.pth")
    load_pretrained_vit(trunk, tmp_path / "vit.pth")
    torch.testing.assert_close(trunk.state_dict(), weights, rtol=0, atol=0)
