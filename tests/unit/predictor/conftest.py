"""A small detector with random weights."""

import numpy as np
import pytest
import torch
from predictors import CPU, NAME, OVERRIDES

from vit_adapter import LazyPredictor


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of the quick-start model with random weights."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": LazyPredictor(NAME, overrides=CPU).model.state_dict()}, file)
    return file


@pytest.fixture(scope="module")
def predictor(weights):
    return LazyPredictor(NAME, weights, OVERRIDES)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
