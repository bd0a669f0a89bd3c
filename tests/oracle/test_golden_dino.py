"""DINOv3's and DINOv2's segmentors against numbers computed by their authors' code, in float64.

The cases are in ``dino_cases``, one module per part; ``reader.py`` there says where the numbers
lie, and ``models.py`` how the models are built.
"""
# ruff: noqa: F403

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from dino_cases.backbone import *
from dino_cases.gradients import *
from dino_cases.heads import *
from dino_cases.inference import *
from dino_cases.reader import CLAIMS, FOLDER, INPUTS, Case, matches, open_case


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """Everything is built in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """What a test reads, see ``reader.reads``; afterwards nothing of it may be left."""
    file, names = request.param
    case = open_case(file, names)
    yield case
    assert not case.unread, f"{file}.npz has arrays that the test did not read: {case.unread}"


def test_every_array_is_read() -> None:
    """Parameters are loaded whole, by every test of their model."""
    unread = []
    for path in FOLDER.glob("*.npz"):
        claims = [names for file, names in CLAIMS if matches(path.stem, (file,))]
        if path.stem.endswith("_params"):
            kind = path.stem.removesuffix("_params")
            if not any(file.startswith(f"{kind}_") for file, _ in CLAIMS):
                unread.append(path.name)
            continue
        with np.load(path) as data:
            names = [name for name in data.files if not matches(name, INPUTS)]
        known = tuple(name for names in claims for name in names)
        unread += [f"{path.name}: {name}" for name in names if not matches(name, known)]
    assert not unread


@pytest.mark.parametrize("file", sorted({file for file, _ in CLAIMS}))
def test_there_are_files_for_every_test(file: str) -> None:
    assert list(FOLDER.glob(f"{file}.npz")), f"no {file}.npz in {FOLDER}"
