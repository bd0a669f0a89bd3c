"""The COCO evaluator: perfect predictions score 100, worse ones less."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from perfect_instances import evaluate, perfect
from PIL import Image

from vit_adapter.data import register_shapes
from vit_adapter.evaluation import build_coco_evaluator

SIZE = dict(num_train=1, num_val=5, image_size=96, seed=11)


@pytest.fixture
def shapes(tmp_path):
    register_shapes(tmp_path / "shapes", **SIZE)
    yield tmp_path / "shapes"
    register_shapes()


def test_perfect_predictions_score_100(shapes, tmp_path):
    assert not shapes.exists()  # the evaluator may be built before the loader
    results = evaluate("shapes_val", perfect, str(tmp_path / "out"))
    assert shapes.exists()
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100)
        for name in MetadataCatalog.get("shapes_val").thing_classes:
            assert results[task][f"AP-{name}"] == pytest.approx(100)
    saved = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {result["category_id"] for result in saved} == {1, 2, 3}  # ids as in the file


def test_tasks_follow_the_predictions_unless_given(shapes):
    assert set(evaluate("shapes_val", lambda r: perfect(r, with_masks=False))) == {"bbox"}
    assert set(evaluate("shapes_val", perfect)) == {"bbox", "segm"}
    assert set(evaluate("shapes_val", perfect, tasks=["segm"])) == {"segm"}


def test_wrong_classes_score_0_and_wrong_masks_only_lose_the_masks(shapes):
    def wrong_class(record):
        instances = perfect(record)
        instances.pred_classes = (instances.pred_classes + 1) % 3
        return instances

    def no_masks(record):
        instances = perfect(record)
        instances.pred_masks = torch.zeros_like(instances.pred_masks)
        return instances

    assert evaluate("shapes_val", wrong_class)["bbox"]["AP"] < 5
    results = evaluate("shapes_val", no_masks)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == 0


def test_missing_half_of_the_objects_halves_the_score(shapes):
    def half(record):
        instances = perfect(record)
        return instances[torch.arange(len(instances)) % 2 == 0]

    assert 30 < evaluate("shapes_val", half)["bbox"]["AP"] < 80


@pytest.mark.parametrize("with_masks", [True, False])
def test_no_predictions_score_0_in_all_metrics(shapes, with_masks):
    usual = evaluate("shapes_val", lambda record: perfect(record, with_masks))
    results = evaluate("shapes_val", lambda record: perfect(record, with_masks)[:0])
    assert {task: set(metrics) for task, metrics in results.items()} == {
        task: set(metrics) for task, metrics in usual.items()
    }
    for task, metrics in results.items():
        for name, value in metrics.items():  # NaN where there are no objects of that size
            assert value == 0 or (np.isnan(value) and np.isnan(usual[task][name]))
    assert results["bbox"]["AP"] == results["bbox"]["AP-circle"] == 0


def test_processes_without_images_use_the_tasks_of_the_others(shapes, monkeypatch):
    evaluator = build_coco_evaluator("shapes_val", distributed=True)
    evaluator.reset()
    monkeypatch.setattr(comm, "all_gather", lambda value: [value, True])
    monkeypatch.setattr(comm, "gather", lambda value, dst: [[{"image_id": 1, "instances": []}]])
    assert set(evaluator.evaluate()) == {"bbox", "segm"}


@pytest.mark.parametrize(("count", "low", "high"), [(12, 12, None), (100, None, 300)])
def test_detections_are_limited(shapes, count, low, high):
    """False detections of each class come before the true ones; None counts 100 of each."""

    def late(record):
        true = perfect(record)
        false = Instances(true.image_size)
        false.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(3 * count, 1))
        false.pred_masks = torch.zeros(3 * count, *true.image_size, dtype=torch.bool)
        false.pred_masks[:, 0, 0] = True
        false.pred_classes = torch.arange(3 * count) % 3
        false.scores = torch.ones(3 * count)
        true.scores = 0.5 * true.scores
        return Instances.cat([false, true])

    limited = evaluate("shapes_val", late, max_dets_per_image=low)
    enough = evaluate("shapes_val", late, max_dets_per_image=high)
    for task in ("bbox", "segm"):
        assert limited[task]["AP"] == limited[task]["AP-circle"] == 0
        assert enough[task]["AP"] > 0.1 and enough[task]["AP-circle"] > 0.1


@pytest.mark.parametrize("ending", ["sem_seg", "panoptic", "panoptic_stuffonly"])
def test_semantic_names_work_with_detectron2s_evaluator(shapes, ending):
    name = f"shapes_val_{ending}"
    records = DatasetCatalog.get(name)
    num_classes = len(MetadataCatalog.get(name).stuff_classes)
    scores = {}
    for shift in (0, 1):
        evaluator = SemSegEvaluator(name, distributed=False)
        evaluator.reset()
        for record in records:
            labels = np.asarray(Image.open(record["sem_seg_file_name"])).astype(np.int64)
            logits = torch.nn.functional.one_hot(
                torch.from_numpy((labels + shift) % num_classes), num_classes
            )
            evaluator.process([record], [{"sem_seg": logits.permute(2, 0, 1)}])
        scores[shift] = evaluator.evaluate()["sem_seg"]["mIoU"]
    assert scores == {0: pytest.approx(100), 1: pytest.approx(0)}
