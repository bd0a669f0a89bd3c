"""DINOv3's and DINOv2's segmentors against numbers computed by their authors' code, in float64.

The cases are in ``dino_cases``, one module per part; ``reader.py`` there says where the numbers
lie, and ``models.py`` how the models are built.
"""
# ruff: noqa: F403

from collections.abc import Iterator

import pytest
import torch
from case_files import Case
from dino_cases.backbone import *
from dino_cases.gradients import *
from dino_cases.heads import *
from dino_cases.inference import *
from dino_cases.reader import FILES


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """Everything is built in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """What a test reads, see ``CaseFiles.reads``."""
    yield from FILES.lend(request)


def test_every_array_is_read() -> None:
    assert not FILES.unread()


def test_there_are_files_for_every_test() -> None:
    assert not FILES.unmatched_claims(), f"not in {FILES.folder}"
