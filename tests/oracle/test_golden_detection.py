"""Detectors against numbers computed by the original's own libraries, in float64.

The cases are in ``detection_cases``, one module per part; ``reader.py`` there says where the
numbers lie.
"""
# ruff: noqa: F403

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from detection_cases.assigners import *
from detection_cases.box_coders import *
from detection_cases.cascade import *
from detection_cases.dense import *
from detection_cases.htc import *
from detection_cases.htc_aug import *
from detection_cases.losses import *
from detection_cases.mask_rcnn import *
from detection_cases.necks import *
from detection_cases.nms import *
from detection_cases.reader import CLAIMS, FOLDER, INPUTS, Case, matches, open_case
from detection_cases.roi_ops import *
from detection_cases.rpn import *
from detectron2.layers import ROIAlign
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.nn import functional
from torchvision.ops import batched_nms


class Float64ROIAlign(ROIAlign):
    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        return super().forward(input.double(), rois)


@pytest.fixture(autouse=True)
def _float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything is built in float64, and Detectron2's boxes, masks, losses and NMS keep it."""

    def keep(boxes: Boxes, tensor: Tensor) -> None:
        boxes.tensor = tensor.reshape(-1, 4)

    monkeypatch.setattr(Boxes, "__init__", keep)
    monkeypatch.setattr("detectron2.structures.masks.ROIAlign", Float64ROIAlign)
    for module in ("roi_heads.fast_rcnn", "proposal_generator.proposal_utils"):
        monkeypatch.setattr(f"detectron2.modeling.{module}.batched_nms", batched_nms)
    cross_entropy = functional.binary_cross_entropy_with_logits
    monkeypatch.setattr(
        functional,
        "binary_cross_entropy_with_logits",
        lambda logits, targets, **options: cross_entropy(logits, targets.to(logits), **options),
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def storage() -> Iterator[EventStorage]:
    """Where Detectron2's losses log to."""
    with EventStorage() as storage:
        yield storage


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """What a test reads, see ``reader.reads``; afterwards nothing of it may be left."""
    file, names = request.param
    case = open_case(file, names)
    yield case
    assert not case.unread, f"{file}.npz has arrays that the test did not read: {case.unread}"


def claims_of(file: str) -> tuple[str, ...]:
    """The names of the arrays of a file that tests read."""
    return tuple(name for claimed, names in CLAIMS if matches(file, (claimed,)) for name in names)


def test_every_array_is_read() -> None:
    """Inputs belong to the rest of their file; parameters are loaded whole for other files."""
    unread = []
    for path in FOLDER.glob("*.npz"):
        if path.stem.endswith("_params"):
            kind = path.stem.removesuffix("_params")
            if not claims_of(kind) + claims_of(f"{kind}_b"):
                unread.append(path.name)
        else:
            with np.load(path) as data:
                names = [name for name in data.files if not name.startswith(INPUTS)]
            claims = claims_of(path.stem)
            unread += [f"{path.name}: {name}" for name in names if not matches(name, claims)]
    assert not unread


@pytest.mark.parametrize("file", sorted({file for file, _ in CLAIMS}))
def test_there_are_files_for_every_test(file: str) -> None:
    assert list(FOLDER.glob(f"{file}.npz")), f"no {file}.npz in {FOLDER}"
