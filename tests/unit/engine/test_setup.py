"""Seeds and the saved config."""

import os
import random
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L, LazyConfig, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.config.errors import UsageError
from vit_adapter.engine import setup
from vit_adapter.engine.setup import save_config, seed_data, seed_model, set_up_logging


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def make_config() -> DictConfig:
    return OmegaConf.create(
        {"model": L(nn.Linear)(in_features=2, out_features="${train.n}"), "train": {"n": 3}},
        flags={"allow_objects": True},
    )


def test_model_seed_is_the_same_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = []
    for rank in (0, 1):
        monkeypatch.setattr(setup.comm, "get_rank", lambda rank=rank: rank)
        seed_model(3)
        draws.append(draw())
    assert draws[0] == draws[1]


def test_data_seed_differs_between_processes_starts_and_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = set()
    for rank in (0, 1):
        monkeypatch.setattr(setup.comm, "get_rank", lambda rank=rank: rank)
        for start_iter in (0, 100, 10**6):
            for seed in (0, 5, 2**30):
                seed_data(seed, start_iter)
                draws.add(draw())
                seed_data(seed, start_iter)
                assert draw() in draws
    assert len(draws) == 2 * 3 * 3


def test_seeds_of_any_size_are_valid() -> None:
    draws = []
    for seed in (20261129123456, 20261129123456, 2**32):
        seed_model(seed)
        draws.append(draw())
    assert draws[0] == draws[1] != draws[2]


def test_negative_seed_is_random() -> None:
    seed_model(-1)
    first = draw()
    seed_model(-1)
    assert draw() != first
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    seed_data(-1, 5)
    assert torch.rand(1) == expected


@pytest.mark.parametrize("folder", ["", None])
def test_run_without_output_folder_is_refused(folder: str | None) -> None:
    cfg = OmegaConf.create({"train": {"output_dir": folder}})
    with pytest.raises(UsageError, match=r"train\.output_dir is .* expected a folder"):
        set_up_logging(cfg, Namespace())


def test_saved_config_builds_the_same(tmp_path: Path) -> None:
    save_config(make_config(), str(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]
    model = instantiate(LazyConfig.load(str(tmp_path / "config.yaml")).model)
    assert (type(model), model.out_features) == (nn.Linear, 3)


def test_values_that_yaml_cannot_hold_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = make_config()
    cfg.train.function = lambda: 1
    save_config(cfg, str(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]
    assert LazyConfig.load(str(tmp_path / "config.yaml")).train.n == 3
    assert "train.function (" in caplog.text


def test_failed_save_keeps_the_earlier_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_config(make_config(), str(tmp_path))
    before = (tmp_path / "config.yaml").read_text()

    def fail(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        save_config(make_config(), str(tmp_path))
    assert (tmp_path / "config.yaml").read_text() == before


def test_only_the_main_process_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.comm, "is_main_process", lambda: False)
    save_config(make_config(), str(tmp_path))
    assert not list(tmp_path.iterdir())
