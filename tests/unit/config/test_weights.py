"""The weights that a config names for the ViT inside its model."""

from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.backbone.plain_vit import PlainViT
from vit_adapter.config.weights import base_weights, load_trunk, stores_trained_only


def make_vit() -> PlainViT:
    return PlainViT(img_size=32, embed_dim=8, depth=1, num_heads=2)


def make_config(**train: object) -> DictConfig:
    return OmegaConf.create({"train": train})


def test_trunk_weights_are_loaded_if_named(tmp_path: Path) -> None:
    source = make_vit()
    nn.init.ones_(source.pos_embed)
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    model = make_vit()
    load_trunk(make_config(vit_checkpoint=""), model)
    assert not torch.equal(model.pos_embed, source.pos_embed)
    load_trunk(make_config(vit_checkpoint=str(tmp_path / "vit.pth")), nn.Sequential(model))
    torch.testing.assert_close(model.pos_embed, source.pos_embed)


def test_the_config_sets_how_patch_kernels_are_resized(tmp_path: Path) -> None:
    model = make_vit()
    weights = model.state_dict()
    kernel = torch.randn(8, 3, 14, 14)
    torch.save({**weights, "patch_embed.proj.weight": kernel}, tmp_path / "vit.pth")
    resized = {}
    for options in ({}, {"vit_patch_resize": "bilinear"}):
        load_trunk(make_config(vit_checkpoint=str(tmp_path / "vit.pth"), **options), model)
        resized[len(options)] = model.patch_embed.proj.weight.detach().clone()
    torch.testing.assert_close(resized[1], nn.functional.interpolate(kernel, 16, mode="bilinear"))
    assert not torch.allclose(resized[0], resized[1])


def test_trunk_weights_without_a_trunk(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one ViT trunk, but this one has 0"):
        load_trunk(make_config(vit_checkpoint=str(tmp_path / "vit.pth")), nn.Linear(1, 1))


def test_they_are_the_base_of_checkpoints_without_them(tmp_path: Path) -> None:
    source, model = make_vit(), make_vit()
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    base = base_weights(make_config(vit_checkpoint=str(tmp_path / "vit.pth")))
    assert base.source == str(tmp_path / "vit.pth")
    base.load(model)
    torch.testing.assert_close(model.pos_embed, source.pos_embed)
    assert base_weights(make_config()).source == ""


def test_everything_is_stored_unless_the_config_says_otherwise() -> None:
    assert not stores_trained_only(make_config())
    assert not stores_trained_only(make_config(checkpointer={"period": 1}))
    assert stores_trained_only(make_config(checkpointer={"trained_only": True}))
