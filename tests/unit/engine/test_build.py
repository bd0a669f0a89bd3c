"""Building model and optimizer from a config."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.backbone.plain_vit import PlainViT
from vit_adapter.config.model import build_model
from vit_adapter.engine.build import build_optimizer, load_trunk, wrap_model


def parameters(model: nn.Module, scale: float) -> list[dict]:
    return [{"params": [parameter], "lr": scale} for parameter in model.parameters()]


def make_config(**train: object) -> DictConfig:
    model = (
        L(nn.Sequential)(_args_=[])
        if not train.get("vit")
        else L(PlainViT)(img_size=32, embed_dim=8, depth=1, num_heads=2)
    )
    train.pop("vit", None)
    return OmegaConf.create(
        {
            "model": model,
            "optimizer": L(torch.optim.SGD)(params=L(parameters)(scale="${..lr}"), lr=0.5),
            "train": {"device": "cpu", **train},
        },
        flags={"allow_objects": True},
    )


def test_model_is_built_on_the_device_in_training_mode() -> None:
    model = build_model(make_config(vit=True))
    assert isinstance(model, PlainViT)
    assert model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_optimizer_gets_the_model_and_the_config_stays_as_it_is() -> None:
    cfg = make_config()
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(cfg, model)
    assert [
        group["params"][0] is p
        for group, p in zip(optimizer.param_groups, model.parameters(), strict=True)
    ] == [True, True]
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert "model" not in cfg.optimizer.params


def test_trunk_weights_are_loaded_if_named(tmp_path: Path) -> None:
    source = PlainViT(img_size=32, embed_dim=8, depth=1, num_heads=2)
    nn.init.ones_(source.pos_embed)
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    model = build_model(make_config(vit=True))
    load_trunk(make_config(vit_checkpoint=""), model)
    assert not torch.equal(model.pos_embed, source.pos_embed)
    load_trunk(make_config(vit_checkpoint=str(tmp_path / "vit.pth")), nn.Sequential(model))
    torch.testing.assert_close(model.pos_embed, source.pos_embed)


def test_the_config_says_how_patch_kernels_are_resized(tmp_path: Path) -> None:
    model = build_model(make_config(vit=True))
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
    with pytest.raises(ValueError, match="one ViT trunk, this one has 0"):
        load_trunk(make_config(vit_checkpoint=str(tmp_path / "vit.pth")), nn.Linear(1, 1))


def test_one_process_needs_no_wrapper() -> None:
    model = nn.Linear(1, 1)
    assert wrap_model(make_config(), model) is model
