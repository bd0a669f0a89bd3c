"""Soft-NMS against numbers computed by the original's library.

Reads ``nms.npz`` in the folder named by ``VIT_ADAPTER_GOLDEN_DETECTION``, by default the
``golden_detection`` folder beside this file.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vit_adapter.detection import soft_nms

FOLDER = Path(
    os.environ.get("VIT_ADAPTER_GOLDEN_DETECTION") or Path(__file__).parent / "golden_detection"
)
MIN_SCORES = {"min001": 0.001, "min05": 0.05}


def read() -> dict[str, Tensor]:
    with np.load(FOLDER / "nms.npz") as data:
        return {name: torch.from_numpy(data[name]) for name in data.files}


DATA = read()
SINGLE_CLASS = sorted(
    name.removesuffix(".index") for name in DATA if ".soft_" in name and name.endswith(".index")
)
MULTI_CLASS = sorted(
    name.removesuffix(".inds") for name in DATA if name.startswith("mc.soft") and "inds" in name
)


def options(case: str) -> dict[str, str | float]:
    """The arguments that the name of a case stands for."""
    _, method, *setting = case.split(".")[1].split("_")
    arguments: dict[str, str | float] = {"method": method}
    if setting == ["iou3"]:
        arguments["iou_threshold"] = 0.3
    elif setting:
        arguments["min_score"] = MIN_SCORES[setting[0]]
    return arguments


@pytest.mark.parametrize("case", SINGLE_CLASS)
def test_boxes_of_one_class(case: str) -> None:
    name = case.split(".")[0]
    boxes, scores = DATA[f"{name}.boxes"], DATA[f"{name}.scores"]
    index, decayed = soft_nms(boxes, scores, torch.zeros(len(boxes)), **options(case))
    assert torch.equal(index, DATA[f"{case}.index"])
    torch.testing.assert_close(decayed, DATA[f"{case}.scores"], rtol=1e-9, atol=1e-12)


def test_the_only_box_is_kept_below_the_least_score() -> None:
    (decayed,) = DATA["single_low.soft_linear.scores"]
    (low,) = (DATA["ties.scores"] == decayed).nonzero()
    index, scores = soft_nms(DATA["ties.boxes"][low], decayed[None], torch.zeros(1))
    assert decayed < 0.001 and index.tolist() == [0] and scores == decayed


@pytest.mark.parametrize("case", MULTI_CLASS)
def test_boxes_of_several_classes(case: str) -> None:
    """As in a detector: a pair of box and class per score, soft-NMS, then the best pairs."""
    scores = DATA["mc.scores"][:, :-1]
    rows, classes = (scores > 0.001).nonzero().T
    boxes = DATA["mc.boxes"][rows]
    if case.endswith("per_class"):
        boxes = DATA["mc.boxes_per_class"].unflatten(1, (-1, 4))[rows, classes]
    index, decayed = soft_nms(boxes, scores[rows, classes], classes)
    expected = DATA[f"{case}.dets"]
    most = int(case.partition("_max")[2] or 100)
    index, decayed = index[:most], decayed[:most]
    assert torch.equal(classes[index], DATA[f"{case}.labels"])
    assert torch.equal(rows[index] * scores.shape[1] + classes[index], DATA[f"{case}.inds"])
    torch.testing.assert_close(boxes[index], expected[:, :4], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(decayed, expected[:, 4], rtol=1e-9, atol=1e-12)
