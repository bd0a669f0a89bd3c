"""NMS and soft-NMS."""

import torch
from case_files import Case, check
from detection_cases.reader import reads
from torch import Tensor
from torchvision.ops import batched_nms, nms

from vit_adapter.detection import soft_nms

THRESHOLDS = {"nms5": 0.5, "nms6": 0.6, "nms7": 0.7}
MIN_SCORES = {"min001": 0.001, "min05": 0.05}
PER_CLASS = ("nms_per_class", "nms_max7", "soft_per_class")  # each class has its own boxes


def soft_options(name: str) -> dict[str, str | float]:
    """The arguments that a name such as ``soft_linear_min05`` stands for."""
    _, method, *setting = name.split("_")
    arguments: dict[str, str | float] = {"method": method}
    if setting == ["iou3"]:
        arguments["iou_threshold"] = 0.3
    elif setting:
        arguments["min_score"] = MIN_SCORES[setting[0]]
    return arguments


def one_class(boxes: Tensor) -> Tensor:
    return torch.zeros(len(boxes))


@reads("nms", "set*", "ties.*", "hand.*")
def test_boxes_of_one_class(case: Case) -> None:
    names = {name.rpartition(".")[0] for name in case if name.endswith((".index", ".keep"))}
    names = sorted(name for name in names if not name.startswith("mc"))
    assert names
    for name in names:
        scene, _, method = name.partition(".")
        boxes, scores = case[f"{scene}.boxes"], case[f"{scene}.scores"]
        if method in THRESHOLDS:
            check(nms(boxes, scores, THRESHOLDS[method]), case[f"{name}.keep"])
        else:
            index, lowered = soft_nms(boxes, scores, one_class(boxes), **soft_options(method))
            check(index, case[f"{name}.index"])
            check(lowered, case[f"{name}.scores"])


@reads("nms", "single_low.*", "ties.boxes", "ties.scores")
def test_the_only_box_is_kept_below_the_least_score(case: Case) -> None:
    (lowered,) = case["single_low.soft_linear.scores"]
    low = (case["ties.scores"] == lowered).nonzero()[0]
    boxes = case["ties.boxes"][low]
    index, scores = soft_nms(boxes, lowered[None], one_class(boxes))
    assert lowered < 0.001 and index.tolist() == [0] and scores == lowered


def candidates(boxes: Tensor, scores: Tensor, threshold: float) -> tuple[Tensor, ...]:
    """Boxes, scores and classes above a score, and their numbers among all pairs.

    Args:
        boxes: (N, 4), or (N, K * 4) if each class has its own.
        scores: (N, K + 1), the background last.
        threshold: least score.
    """
    scores = scores[:, :-1]
    rows, classes = (scores > threshold).nonzero().T
    by_class = boxes.unflatten(1, (-1, 4)).expand(-1, scores.shape[1], 4)
    numbers = rows * scores.shape[1] + classes
    return by_class[rows, classes], scores[rows, classes], classes, numbers


def check_kept(
    expected: Case, kept: Tensor, scores: Tensor, found: tuple[Tensor, ...], most: int
) -> None:
    boxes, _, classes, numbers = (each[kept[:most]] for each in found)
    check(classes, expected["labels"])
    check(numbers, expected["inds"])
    check(torch.cat([boxes, scores[:most, None]], dim=1), expected["dets"])


@reads("nms", "mc.*")
def test_boxes_of_several_classes(case: Case) -> None:
    """As in a detector: a pair of box and class per score, NMS, then the best pairs."""
    case = case.within("mc.")
    names = sorted(name.removesuffix(".dets") for name in case if name.endswith(".dets"))
    assert names
    for name in names:
        soft = name.startswith("soft")
        threshold = 0.001 if soft else 0.0625 if name == "nms_thr_equal" else 0.05
        boxes = case["boxes_per_class" if name in PER_CLASS else "boxes"]
        found = candidates(boxes, case["scores"], threshold)
        if soft:
            kept, scores = soft_nms(*found[:3])
        else:
            kept = batched_nms(*found[:3], 0.5)
            scores = found[1][kept]
        most = int(name.partition("_max")[2] or 100)
        check_kept(case.within(f"{name}."), kept, scores, found, most)


@reads("nms", "mc_negative.*")
def test_boxes_at_negative_coordinates(case: Case) -> None:
    case = case.within("mc_negative.")
    found = candidates(case["boxes"], case["scores"], 0.2)
    kept = batched_nms(*found[:3], 0.5)
    check_kept(case, kept, found[1][kept], found, 100)
