"""Detectors against numbers computed by the original's own libraries, in float64.

The cases are in ``detection_cases``, one module per kind of detector; ``reader.py`` there says
where the numbers lie.
"""
# ruff: noqa: F403

from collections.abc import Iterator

import pytest
import torch
from detection_cases.cascade import *
from detection_cases.htc import *
from detection_cases.parts import *
from detection_cases.rpn import *
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.nn import functional
from torchvision.ops import batched_nms


@pytest.fixture(autouse=True)
def _float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything is built in float64, and Detectron2's boxes, losses and NMS keep it."""

    def keep(boxes: Boxes, tensor: Tensor) -> None:
        boxes.tensor = tensor.reshape(-1, 4)

    monkeypatch.setattr(Boxes, "__init__", keep)
    for module in ("roi_heads.fast_rcnn", "proposal_generator.proposal_utils"):
        monkeypatch.setattr(f"detectron2.modeling.{module}.batched_nms", batched_nms)
    cross_entropy = functional.binary_cross_entropy_with_logits
    monkeypatch.setattr(
        functional,
        "binary_cross_entropy_with_logits",
        lambda logits, targets, **options: cross_entropy(logits, targets.double(), **options),
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def storage() -> Iterator[None]:
    """Where Detectron2's losses log to."""
    with EventStorage():
        yield
