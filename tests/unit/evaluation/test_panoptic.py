"""The evaluator of panoptic segmentation on generated shapes."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from vit_adapter.data import register_shapes
from vit_adapter.data.image_io import read_segment_ids
from vit_adapter.evaluation import PanopticEvaluator

NAME = "shapes_val_panoptic"
CLASSES = ["circle", "square", "triangle", "speckle", "stripes"]
SIZE = dict(num_train=1, num_val=3, image_size=64, seed=5)


@pytest.fixture(autouse=True, scope="module")
def _shapes(tmp_path_factory):
    register_shapes(tmp_path_factory.mktemp("data") / "shapes", **SIZE)
    yield
    register_shapes()


def perfect(record: dict) -> tuple[torch.Tensor, list[dict]]:
    """The labels as prediction."""
    ids = torch.from_numpy(read_segment_ids(record["pan_seg_file_name"]))
    keys = ("id", "category_id", "isthing")
    return ids, [{key: segment[key] for key in keys} for segment in record["segments_info"]]


def evaluate(predict: Callable, records: list | None = None, **options) -> dict | None:
    evaluator = PanopticEvaluator(NAME, **options)
    for record in DatasetCatalog.get(NAME) if records is None else records:
        evaluator.process([record], [{"panoptic_seg": predict(record)}])
    return evaluator.evaluate()


def number_of_classes() -> np.ndarray:
    """How many labelled segments each class has."""
    labels = [s["category_id"] for r in DatasetCatalog.get(NAME) for s in r["segments_info"]]
    return np.bincount(labels, minlength=5)


def test_perfect_predictions_score_100(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        metrics = evaluate(perfect)["panoptic_seg"]
    assert number_of_classes().all()
    keys = {f"{key}{end}" for key in ("PQ", "SQ", "RQ") for end in ("", "_th", "_st")}
    keys |= {f"{key}-{name}" for key in ("PQ", "SQ", "RQ") for name in CLASSES}
    assert metrics == dict.fromkeys(keys, 100.0)
    assert {type(value) for value in metrics.values()} == {float}
    rows = [line.split() for line in caplog.text.splitlines()]
    assert "| circle | thing | 100.00 | 100.00 | 100.00 |".split() in rows
    assert "| stripes | stuff | 100.00 | 100.00 | 100.00 |".split() in rows


def test_things_and_stuff_are_averaged_apart() -> None:
    def without_stuff(record):
        ids, segments = perfect(record)
        things = [s for s in segments if s["isthing"]]
        return torch.where(torch.isin(ids, torch.tensor([s["id"] for s in things])), ids, 0), things

    metrics = evaluate(without_stuff)["panoptic_seg"]
    assert (metrics["PQ"], metrics["PQ_th"], metrics["PQ_st"]) == (60, 100, 0)
    assert (metrics["PQ-circle"], metrics["PQ-speckle"]) == (100, 0)


def test_a_missed_object_counts_for_its_class() -> None:
    missed = []

    def incomplete(record):
        ids, segments = perfect(record)
        if not missed:
            missed.append(segments.pop(0))
            ids[ids == missed[0]["id"]] = 0
        return ids, segments

    metrics = evaluate(incomplete)["panoptic_seg"]
    label = missed[0]["category_id"]
    matches = number_of_classes()[label] - 1
    expected = 100 * matches / (matches + 0.5)
    assert metrics[f"PQ-{CLASSES[label]}"] == pytest.approx(expected)
    assert metrics["PQ"] == pytest.approx((400 + expected) / 5)


def test_a_model_that_predicts_nothing() -> None:
    metrics = evaluate(lambda r: (torch.zeros(64, 64, dtype=torch.int32), []))["panoptic_seg"]
    assert set(metrics.values()) == {0.0}


def test_counts_of_all_processes_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    records = DatasetCatalog.get(NAME)
    other = PanopticEvaluator(NAME, distributed=False)
    for record in records[1:]:
        other.process([record], [{"panoptic_seg": perfect(record)}])
    monkeypatch.setattr(comm, "all_gather", lambda counts: [counts, other._per_image])

    def nothing(record):
        return torch.zeros(64, 64, dtype=torch.int32), []

    metrics = evaluate(nothing, records[:1])["panoptic_seg"]
    assert (
        metrics
        == evaluate(
            lambda r: nothing(r) if r["image_id"] == records[0]["image_id"] else perfect(r),
            distributed=False,
        )["panoptic_seg"]
    )
    assert 0 < metrics["PQ"] < 100
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert evaluate(nothing, records[:1]) is None


def test_an_image_with_two_entries_has_the_labels_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{**record, "file_name": "image.jpg"} for record in DatasetCatalog.get(NAME)]
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: records)
    assert evaluate(perfect, records)["panoptic_seg"]["PQ"] == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, segments: (ids[:32], segments), r"64 x 32 pixels .*000001.png have 64 x 64"),
        (lambda ids, segments: (ids, segments[1:]), r"segments \[1\] only in its map"),
        (
            lambda ids, segments: (ids, [*segments, {"id": 99, "category_id": 0}]),
            r"and \[99\] only in its list",
        ),
        (
            lambda ids, segments: (ids, [{**segments[0], "category_id": 5}, *segments[1:]]),
            r"the classes \[5\], but the data set has 5 classes, 0 to 4",
        ),
    ],
)
def test_predictions_that_do_not_fit(change: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=f"000001.png.*{message}|{message}"):
        evaluate(lambda record: change(*perfect(record)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shapes_val", "'shapes_val' has no stuff classes"),
        ("shapes_val_sem_seg", "'shapes_val_sem_seg' has no thing_dataset_id_to_contiguous_id"),
        ("shapes_val_panoptic_separated", "3 of 3 images .* have no 'pan_seg_file_name'"),
        ("coco_2017_val_panoptic_separated", r"54 stuff_classes, 80 thing_classes and the things"),
    ],
)
def test_data_without_panoptic_labels(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PanopticEvaluator(name)
