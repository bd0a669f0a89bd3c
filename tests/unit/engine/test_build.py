"""Building model, optimizer and data loader from a config."""

import logging
from collections.abc import Callable
from itertools import islice

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_train_loader
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.backbone.plain_vit import PlainViT
from vit_adapter.config.errors import UsageError
from vit_adapter.data import TrainLoader
from vit_adapter.engine.build import build_optimizer, build_seeded_model, build_train_loader


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


class Mapper:
    """Changes nothing."""

    def __call__(self, record: dict) -> dict:
        return record


def make_loader_config(loader: Callable, seed: int = 0) -> DictConfig:
    train = L(loader)(
        dataset=[{"name": name} for name in "abcdefgh"],
        mapper=L(Mapper)(),
        total_batch_size=2,
        aspect_ratio_grouping=False,
    )
    return OmegaConf.create(
        {"dataloader": {"train": train}, "train": {"seed": seed}}, flags={"allow_objects": True}
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


def test_the_loader_continues_at_the_first_iteration_of_a_run() -> None:
    cfg = make_loader_config(TrainLoader, seed=3)
    first = list(islice(build_train_loader(cfg), 6))
    assert list(islice(build_train_loader(cfg, start_iter=4), 2)) == first[4:]
    cfg.train.seed = 4
    assert list(islice(build_train_loader(cfg), 6)) != first


def test_other_loaders_are_used_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vit_adapter")
    build_train_loader(make_loader_config(TrainLoader))
    assert not caplog.messages
    loader = build_train_loader(make_loader_config(build_detection_train_loader), start_iter=4)
    (batch,) = islice(loader, 1)
    assert batch[0].keys() == {"name"}
    (message,) = caplog.messages
    assert "not read by vit_adapter.data.TrainLoader" in message
    assert "not exactly the run without the stop" in message
