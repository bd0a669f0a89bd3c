"""Configs by name, each file read once."""

import copy
from collections.abc import Callable
from functools import cache

import pytest
from omegaconf import DictConfig

from vit_adapter import model_zoo


@pytest.fixture(scope="session")
def load_config() -> Callable[[str], DictConfig]:
    """A function that returns a copy of a config, which the test may change."""
    read = cache(model_zoo.get_config)
    return lambda name: copy.deepcopy(read(name))
