"""The seed of a run and of its steps."""

import logging
import random

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from omegaconf import OmegaConf

from vit_adapter.engine.seeds import RunSeed


class Loop:
    """The part of a trainer that the hook reads."""

    def __init__(self, iteration: int = 0) -> None:
        self.iter = iteration


def draw(hook: RunSeed, iteration: int) -> tuple[float, float, float]:
    hook.trainer = Loop(iteration)
    hook.before_step()
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def make(seed: int) -> RunSeed:
    return RunSeed(OmegaConf.create({"seed": seed}))


def test_numbers_of_a_step_follow_from_seed_iteration_and_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = set()
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        for seed in (0, 1, 10**12):
            for iteration in (0, 1, 11):
                numbers = draw(make(seed), iteration)
                draws.update(numbers)
                assert draw(make(seed), iteration) == numbers
    assert len(draws) == 2 * 3 * 3 * 3


def test_a_given_seed_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    options = OmegaConf.create({"seed": 4})
    hook = RunSeed(options)
    assert hook.state_dict() == {"seed": 4}
    hook.load_state_dict({"seed": 4})
    assert not caplog.messages
    hook.load_state_dict({"seed": 5})
    assert options.seed == 4
    assert "train.seed is 4, but was 5 before" in caplog.text


def test_a_seed_is_drawn_once_and_resumed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vit_adapter")
    options, others = (OmegaConf.create({"seed": -1}) for _ in range(2))
    RunSeed(options), RunSeed(others)
    assert 0 <= options.seed < 2**31 and options.seed != others.seed
    assert f"train.seed={options.seed} (drawn)" in caplog.text
    resumed = OmegaConf.create({"seed": -1})
    hook = RunSeed(resumed)
    hook.load_state_dict(RunSeed(options).state_dict())
    assert resumed.seed == options.seed
    assert draw(hook, 3) == draw(make(options.seed), 3)
    # All processes use the seed of the main one.
    monkeypatch.setattr(comm, "all_gather", lambda seed: [17, seed])
    shared = OmegaConf.create({"seed": -1})
    RunSeed(shared)
    assert shared.seed == 17
