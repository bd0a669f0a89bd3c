"""Building model and optimizer from a config."""

import pytest
import torch
from detectron2.config import LazyCall as L
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.backbone.plain_vit import PlainViT
from vit_adapter.config.errors import UsageError
from vit_adapter.engine.build import build_optimizer, build_seeded_model


def parameters(model: nn.Module, scale: float) -> list[dict]:
    return [{"params": [parameter], "lr": scale} for parameter in model.parameters()]


def make_config(seed: int = 0) -> DictConfig:
    return OmegaConf.create(
        {
            "model": L(PlainViT)(img_size=32, embed_dim=8, depth=1, num_heads=2),
            "optimizer": L(torch.optim.SGD)(params=L(parameters)(scale="${..lr}"), lr=0.5),
            "train": {"device": "cpu", "seed": seed},
        },
        flags={"allow_objects": True},
    )


def test_model_is_built_on_the_device_in_training_mode() -> None:
    model = build_seeded_model(make_config())
    assert isinstance(model, PlainViT)
    assert model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_initial_weights_follow_from_the_seed() -> None:
    kernels = [build_seeded_model(make_config(seed)).patch_embed.proj.weight for seed in (1, 1, 2)]
    assert torch.equal(kernels[0], kernels[1])
    assert not torch.equal(kernels[0], kernels[2])


def test_arguments_out_of_range_are_mistakes_of_the_user() -> None:
    cfg = make_config()
    cfg.model.lora_rank = -1
    with pytest.raises(UsageError, match=r"cannot be built: lora_rank must be .*, got -1"):
        build_seeded_model(cfg)
    cfg.train.device = "toaster"
    del cfg.model.lora_rank
    with pytest.raises(UsageError, match=r"^train\.device='toaster' is not a device"):
        build_seeded_model(cfg)


def test_optimizer_gets_the_model_without_changing_the_config() -> None:
    cfg = make_config()
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(cfg, model)
    assert [
        group["params"][0] is p
        for group, p in zip(optimizer.param_groups, model.parameters(), strict=True)
    ] == [True, True]
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert "model" not in cfg.optimizer.params
