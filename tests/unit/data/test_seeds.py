"""Seeds derived from numbers, and code that draws from its own seed."""

import random

import numpy as np
import pytest
import torch

from vit_adapter.data.seeds import derive_seed, seeded


def draw() -> tuple[float, float, float]:
    return np.random.rand(), random.random(), torch.rand(1).item()


def test_derived_seeds_follow_from_all_parts() -> None:
    parts = [("a", 0, 1), ("a", 1, 0), ("b", 0, 1), ("a", 0, 11), ("a", -1, 1), ("a", 10**20, 1)]
    seeds = [derive_seed(*part) for part in parts]
    assert len(set(seeds)) == len(parts)
    assert [derive_seed(*part) for part in parts] == seeds
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_seeded_code_draws_from_the_seed_alone() -> None:
    draws = []
    for seed in (2**32 - 1, 2**32 - 1, 7):
        draw()
        with seeded(seed):
            draws.append(draw())
    assert draws[0] == draws[1]
    assert not set(draws[0]) & set(draws[2])


def test_generators_continue_as_if_nothing_was_drawn() -> None:
    states = np.random.get_state(), random.getstate(), torch.get_rng_state()
    expected = draw()
    np.random.set_state(states[0]), random.setstate(states[1]), torch.set_rng_state(states[2])
    with pytest.raises(KeyError), seeded(3):
        draw()
        raise KeyError
    assert draw() == expected
