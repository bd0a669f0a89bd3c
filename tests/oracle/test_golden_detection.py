"""Detectors against numbers computed by the original's own libraries, in float64.

The cases are in ``detection_cases``, one module per part; ``reader.py`` there says where the
numbers lie. ``case_files.py`` reads them: a test says which arrays it reads, and fails if it leaves
one of them out.
"""
# ruff: noqa: F403

from collections.abc import Iterator

import pytest
import torch
from case_files import Case
from detection_cases.assigners import *
from detection_cases.box_coders import *
from detection_cases.cascade import *
from detection_cases.dense import *
from detection_cases.float64 import keep_float64
from detection_cases.htc import *
from detection_cases.htc_aug import *
from detection_cases.losses import *
from detection_cases.mask_rcnn import *
from detection_cases.necks import *
from detection_cases.nms import *
from detection_cases.reader import FILES
from detection_cases.roi_ops import *
from detection_cases.rpn import *
from detectron2.utils.events import EventStorage


@pytest.fixture(autouse=True)
def _float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_default_dtype()
    keep_float64(monkeypatch)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def storage() -> Iterator[EventStorage]:
    """Where Detectron2's losses log to."""
    with EventStorage() as storage:
        yield storage


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """What a test reads, see ``CaseFiles.reads``."""
    yield from FILES.lend(request)


def test_every_array_is_read() -> None:
    assert not FILES.unread()


def test_there_are_files_for_every_test() -> None:
    assert not FILES.unmatched_claims(), f"not in {FILES.folder}"
