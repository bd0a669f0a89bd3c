"""Fixtures for all tests: seeds, threads, devices, and a temporary data folder."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

# Before anything reads them: no window system, no downloads, none of the machine's own data.
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DETECTRON2_DATASETS"] = tempfile.mkdtemp(prefix="vit_adapter_tests_")
atexit.register(shutil.rmtree, os.environ["DETECTRON2_DATASETS"], ignore_errors=True)

SKIP_REASONS = {
    "cuda": (torch.cuda.is_available, "needs a CUDA device"),
    "nvcc": (
        lambda: shutil.which("nvcc") is not None and torch.version.cuda is not None,
        "needs the CUDA compiler, nvcc, and a CUDA build of PyTorch",
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests whose marker names something that this machine does not have."""
    for marker, (is_there, reason) in SKIP_REASONS.items():
        if is_there():
            continue
        for item in items:
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> Iterator[None]:
    """Keeps the threads at two on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, threads))
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread: equal sums need equal numbers of threads, even in child processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Each test starts from the same random state, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that an operator or a model should be tested on."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder that holds setup.py, configs/ and train_net.py."""
    return Path(__file__).parents[1]
