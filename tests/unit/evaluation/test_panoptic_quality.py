"""Panoptic quality, compared with values worked out by hand and with a slow loop over pixels."""

import numpy as np
import pytest

from vit_adapter.evaluation.panoptic_quality import compute_quality, count_segments

CLASSES = 3
# 8 x 8 pixels: stuff of class 2 on the left, a thing of class 0 above one of class 1 on the right
TRUE_IDS = np.full((8, 8), 7)
TRUE_IDS[:4, 4:], TRUE_IDS[4:, 4:] = 1, 300
LABELLED = [
    {"id": 1, "category_id": 0, "iscrowd": 0},
    {"id": 300, "category_id": 1, "iscrowd": 0},
    {"id": 7, "category_id": 2, "iscrowd": 0},
]


def segments(*classes: int) -> list[dict[str, int]]:
    """Predicted segments with the ids 1, 2, ... and the given classes."""
    return [{"id": i, "category_id": label} for i, label in enumerate(classes, start=1)]


def quality(ids: np.ndarray, predicted: list, true_ids=TRUE_IDS, labelled=LABELLED) -> list[list]:
    """PQ, SQ and RQ of each class."""
    counts = count_segments(ids, predicted, true_ids, labelled, CLASSES)
    return [list(row) for row in zip(*compute_quality(counts), strict=True)]


def numbered() -> np.ndarray:
    """The labelled map with the ids 1, 2 and 3."""
    return np.select([TRUE_IDS == 1, TRUE_IDS == 300], [1, 2], 3)


def test_the_labels_as_prediction_are_perfect() -> None:
    assert quality(numbered(), segments(0, 1, 2)) == [[1, 1, 1]] * 3
    assert quality(TRUE_IDS, LABELLED) == [[1, 1, 1]] * 3


def test_a_thing_that_loses_a_quarter_of_its_pixels() -> None:
    ids = numbered()
    ids[0, 4:] = 0  # 12 of 16 pixels are left
    assert quality(ids, segments(0, 1, 2)) == [[0.75, 0.75, 1], [1, 1, 1], [1, 1, 1]]


def test_a_thing_in_two_halves_has_no_match() -> None:
    ids = numbered()
    ids[6:, 4:] = 4  # both halves have an IoU of exactly 0.5: two errors, and one missed segment
    assert quality(ids, segments(0, 1, 2, 1)) == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]


def test_a_thing_with_another_class() -> None:
    # class 0: one missed; class 1: one match and one error, 1 / (1 + 1/2)
    found = quality(numbered(), segments(1, 1, 2))
    assert found == [[0, 0, 0], [pytest.approx(2 / 3), 1, pytest.approx(2 / 3)], [1, 1, 1]]


def test_iou_barely_above_one_half() -> None:
    ids = np.zeros((8, 8), int)
    ids[:2, 4:], ids[2, 4] = 1, 1  # 9 of 16 pixels
    assert quality(ids, segments(0))[0] == [9 / 16, 9 / 16, 1]


def test_empty_prediction_and_empty_labels() -> None:
    nothing = np.zeros((8, 8), int)
    assert quality(nothing, []) == [[0, 0, 0]] * 3
    assert np.isnan(quality(nothing, [], nothing, [])).all()
    assert np.isnan(quality(numbered(), segments(0, 1, 2), nothing, [])).all()  # all on void


def test_void_does_not_count_in_the_union() -> None:
    true_ids = np.where(TRUE_IDS == 7, 0, TRUE_IDS)
    ids = numbered()
    ids[:4, :3] = 1  # 16 pixels of the thing and 12 of void
    found = quality(ids, segments(0, 1, 2), true_ids, LABELLED[:2])
    assert found[0] == [1, 1, 1]
    assert np.isnan(found[2]).all()  # the predicted stuff lies on void


@pytest.mark.parametrize(("void", "is_error"), [(4, True), (5, False)])
def test_an_error_of_which_more_than_half_is_void(void: int, is_error: bool) -> None:
    true_ids = np.where(TRUE_IDS == 7, 0, TRUE_IDS)
    ids = np.zeros((8, 8), int)
    ids[7] = 1  # 4 pixels of void and 4 of class 1
    ids[6, : void - 4] = 1
    counts = count_segments(ids, segments(0), true_ids, LABELLED[:2], CLASSES)
    assert counts[0, 2] == is_error


@pytest.mark.parametrize(("label", "is_error"), [(0, False), (1, True)])
def test_crowds_of_the_class_are_ignored(label: int, is_error: bool) -> None:
    labelled = [{**LABELLED[0], "iscrowd": 1}, *LABELLED[1:]]
    ids = numbered()
    found = count_segments(ids, segments(label, 1, 2), TRUE_IDS, labelled, CLASSES)
    assert found[0].tolist() == [0, 0, 0, 0]  # the crowd is neither matched nor missed
    assert found[1].tolist() == [1, 1, is_error, 0]


def test_void_and_crowd_are_added_up() -> None:
    labelled = [{**LABELLED[0], "iscrowd": 1}]
    true_ids = np.where(TRUE_IDS == 7, 0, TRUE_IDS)
    true_ids[TRUE_IDS == 300] = 300
    ids = np.zeros((8, 8), int)
    ids[3, :] = 1  # 4 pixels of void and 4 of the crowd
    ids[4, 4:] = 1  # 4 pixels of another object
    found = count_segments(ids, segments(0), true_ids, [*labelled, LABELLED[1]], CLASSES)
    assert found[0].tolist() == [0, 0, 0, 0]


def slow_counts(ids, predicted, true_ids, labelled) -> np.ndarray:
    """The official steps in plain Python, one pixel at a time."""
    pixels = list(np.ndindex(*ids.shape))
    area = {s["id"]: {p for p in pixels if ids[p] == s["id"]} for s in predicted}
    true_area = {s["id"]: {p for p in pixels if true_ids[p] == s["id"]} for s in labelled}
    void = {p for p in pixels if true_ids[p] == 0}
    counts = np.zeros((CLASSES, 4))
    used, found = set(), set()
    for truth in labelled:
        for guess in predicted:
            if truth["iscrowd"] or truth["category_id"] != guess["category_id"]:
                continue
            a, b = area[guess["id"]], true_area[truth["id"]]
            iou = len(a & b) / len((a | b) - (void & a))
            if iou > 0.5:
                counts[truth["category_id"], :2] += iou, 1
                used.add(guess["id"])
                found.add(truth["id"])
    for guess in predicted:
        if guess["id"] in used:
            continue
        a, ignored = area[guess["id"]], 0
        ignored += len(a & void)
        for truth in labelled:
            if truth["iscrowd"] and truth["category_id"] == guess["category_id"]:
                ignored += len(a & true_area[truth["id"]])
        counts[guess["category_id"], 2] += ignored / len(a) <= 0.5
    for truth in labelled:
        counts[truth["category_id"], 3] += truth["id"] not in found and not truth["iscrowd"]
    return counts


def blocks(rng: np.random.Generator, first_id: int) -> tuple[np.ndarray, list[dict[str, int]]]:
    """A random map of 16 blocks whose ids may repeat, and its segments; some pixels are void."""
    ids = rng.permutation(12)[rng.integers(0, 12, (4, 4))].repeat(2, 0).repeat(3, 1)
    ids = np.where(ids < 3, 0, ids * first_id)
    ids[rng.random(ids.shape) < 0.1] = 0
    return ids, [
        {
            "id": int(i),
            "category_id": int(rng.integers(CLASSES)),
            "iscrowd": int(rng.random() < 0.2),
        }
        for i in rng.permutation(np.unique(ids[ids > 0]))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_equals_a_slow_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true_ids, labelled = blocks(rng, 1000)
    ids, predicted = blocks(rng, 1)
    if seed % 2:  # mostly right
        wrong = rng.random(ids.shape) < 0.2
        ids = np.where(wrong, ids, true_ids // 1000)
        kept = set(np.unique(ids)) - {0}
        labels = {s["id"] // 1000: s["category_id"] for s in labelled}
        labels |= {s["id"]: s["category_id"] for s in predicted if s["id"] not in labels}
        predicted = [{"id": int(i), "category_id": labels[i]} for i in kept]
    found = count_segments(ids, predicted, true_ids, labelled, CLASSES)
    expected = slow_counts(ids, predicted, true_ids, labelled)
    assert found == pytest.approx(expected)
    assert expected.any()
