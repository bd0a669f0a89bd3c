"""The evaluator, on any COCO-format file: perfect predictions score 100, worse ones less."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.evaluation import SemSegEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from PIL import Image
from pycocotools import mask as mask_util

from vit_adapter.data import register_coco_format, register_shapes
from vit_adapter.evaluation import build_coco_evaluator

SIZE = dict(num_train=1, num_val=5, image_size=96, seed=11)


@pytest.fixture
def shapes(tmp_path):
    register_shapes(tmp_path / "shapes", **SIZE)
    yield tmp_path / "shapes"
    register_shapes()


def _perfect(record, with_masks=True):
    """Return what a perfect model would predict."""
    annotations = record["annotations"]
    instances = Instances((record["height"], record["width"]))
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.ones(len(annotations))
    instances.pred_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.long)
    if with_masks:
        masks = [_mask(a["segmentation"], instances.image_size) for a in annotations]
        instances.pred_masks = torch.from_numpy(np.array(masks))
    return instances


def _mask(segmentation, size):
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, *size))
    return mask_util.decode(segmentation).astype(bool)


def _evaluate(name, predict, output_dir=None, **options):
    evaluator = build_coco_evaluator(name, output_dir, distributed=False, **options)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        evaluator.process([record], [{"instances": predict(record)}])
    return evaluator.evaluate()


def test_perfect_predictions_score_100(shapes, tmp_path):
    assert not shapes.exists()  # the evaluator may be built before the loader
    results = _evaluate("shapes_val", _perfect, str(tmp_path / "out"))
    assert shapes.exists()
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100)
        for name in MetadataCatalog.get("shapes_val").thing_classes:
            assert results[task][f"AP-{name}"] == pytest.approx(100)
    saved = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {result["category_id"] for result in saved} == {1, 2, 3}  # ids as in the file


def test_tasks_follow_the_predictions_unless_given(shapes):
    assert set(_evaluate("shapes_val", lambda r: _perfect(r, with_masks=False))) == {"bbox"}
    assert set(_evaluate("shapes_val", _perfect)) == {"bbox", "segm"}
    assert set(_evaluate("shapes_val", _perfect, tasks=["segm"])) == {"segm"}


def test_wrong_classes_score_0_and_wrong_masks_only_lose_the_masks(shapes):
    def wrong_class(record):
        instances = _perfect(record)
        instances.pred_classes = (instances.pred_classes + 1) % 3
        return instances

    def no_masks(record):
        instances = _perfect(record)
        instances.pred_masks = torch.zeros_like(instances.pred_masks)
        return instances

    assert _evaluate("shapes_val", wrong_class)["bbox"]["AP"] < 5
    results = _evaluate("shapes_val", no_masks)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == 0


def test_missing_half_of_the_objects_halves_the_score(shapes):
    def half(record):
        instances = _perfect(record)
        return instances[torch.arange(len(instances)) % 2 == 0]

    assert 30 < _evaluate("shapes_val", half)["bbox"]["AP"] < 80


@pytest.mark.parametrize("with_masks", [True, False])
def test_no_predictions_score_0_in_all_metrics(shapes, with_masks):
    usual = _evaluate("shapes_val", lambda record: _perfect(record, with_masks))
    results = _evaluate("shapes_val", lambda record: _perfect(record, with_masks)[:0])
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
        true = _perfect(record)
        false = Instances(true.image_size)
        false.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(3 * count, 1))
        false.pred_masks = torch.zeros(3 * count, *true.image_size, dtype=torch.bool)
        false.pred_masks[:, 0, 0] = True
        false.pred_classes = torch.arange(3 * count) % 3
        false.scores = torch.ones(3 * count)
        true.scores = 0.5 * true.scores
        return Instances.cat([false, true])

    limited = _evaluate("shapes_val", late, max_dets_per_image=low)
    enough = _evaluate("shapes_val", late, max_dets_per_image=high)
    for task in ("bbox", "segm"):
        assert limited[task]["AP"] == limited[task]["AP-circle"] == 0
        assert enough[task]["AP"] > 0.1 and enough[task]["AP-circle"] > 0.1


@pytest.fixture
def own_data(tmp_path):
    """A file as written by other tools: no 'info', 'area' or 'iscrowd', and ids from 0."""
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "a.png")
    annotations = [
        {
            "id": i,
            "image_id": 1,
            "category_id": 4 + 3 * i,
            "bbox": [10, 10, 40, 20],
            "segmentation": [[10, 10, 50, 10, 50, 30, 10, 30]],
        }
        for i in range(2)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 60, "width": 80}],
        "annotations": annotations,
        "categories": [{"id": 4, "name": "x"}, {"id": 7, "name": "y"}],
    }
    (tmp_path / "own.json").write_text(json.dumps(content))
    register_coco_format("evaluated_data", tmp_path / "own.json", tmp_path)
    yield "evaluated_data"
    DatasetCatalog.remove("evaluated_data")
    MetadataCatalog.remove("evaluated_data")


def test_files_without_area_and_crowd_flags_and_with_ids_from_0_are_evaluated(own_data):
    results = _evaluate(own_data, _perfect)
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)
    # 40 x 20 = 800 pixels is small for COCO; this comes from the added areas
    assert results["bbox"]["APs"] == pytest.approx(100) and np.isnan(results["bbox"]["APm"])


@pytest.mark.parametrize("labels", [{4: 0, 7: 1}, {4: 1, 7: 0}])
def test_metrics_of_classes_have_the_right_names(own_data, tmp_path, labels):
    names = [{4: "x", 7: "y"}[identifier] for identifier in sorted(labels, key=labels.get)]
    metadata = dict(thing_classes=names, thing_dataset_id_to_contiguous_id=labels)
    register_coco_instances("other_order", metadata, str(tmp_path / "own.json"), str(tmp_path))
    only_y = _perfect(DatasetCatalog.get(own_data)[0])[1:]
    only_y.pred_classes = torch.tensor([labels[7]])
    evaluator = build_coco_evaluator("other_order", distributed=False)
    evaluator.reset()
    try:
        evaluator.process([{"image_id": 1}], [{"instances": only_y}])
        results = evaluator.evaluate()
    finally:
        DatasetCatalog.remove("other_order")
        MetadataCatalog.remove("other_order")
    for task in ("bbox", "segm"):
        assert results[task]["AP-y"] == pytest.approx(100) and results[task]["AP-x"] == 0


def _change(tmp_path, change):
    """Rewrite the file of ``own_data``; ``change`` modifies its content."""
    content = json.loads((tmp_path / "own.json").read_text())
    change(content)
    (tmp_path / "own.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "image_id"),
    [
        (dict(iscrowd=None), 1),
        (dict(iscrowd="0"), 1),
        (dict(iscrowd=False), 1),
        (dict(area=None), 1),
        (dict(area=[800]), 1),
        (dict(area="800"), 1),
        (dict(area=-1), 1),
        (dict(area=float("nan")), 1),
        (dict(image_id="1"), 1),
        (dict(image_id=1.0), 1),
        (dict(bbox=["10", "10", "40", "20"]), 1),
        (dict(keypoints=None, score=None), 1),
        (dict(image_id=1), 1.0),
        (dict(image_id=1), "1"),
        (dict(image_id="scan"), "scan"),
    ],
)
def test_values_of_other_types_are_evaluated(tmp_path, own_data, changes, image_id):
    perfect = _perfect(DatasetCatalog.get(own_data)[0])

    def change(content):
        content["images"][0]["id"] = image_id
        for annotation in content["annotations"]:
            annotation.update(changes)

    _change(tmp_path, change)  # after registration: the evaluator reads the file itself
    evaluator = build_coco_evaluator(own_data, str(tmp_path / "out"), distributed=False)
    evaluator.reset()
    image_id = int(image_id) if isinstance(image_id, float) else image_id
    evaluator.process([{"image_id": image_id}], [{"instances": perfect}])
    results = evaluator.evaluate()
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == results[task]["APs"] == pytest.approx(100)
    saved = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {result["image_id"] for result in saved} == {image_id}


def _evaluate_own(name, register, predicted, tmp_path):
    """Register the changed file under a name for one evaluation."""
    register(name, tmp_path / "own.json", tmp_path)
    try:
        return _evaluate(name, lambda _: predicted, str(tmp_path / "out"))
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _register_with_detectron2(name, json_file, image_root):
    register_coco_instances(name, {}, str(json_file), str(image_root))


@pytest.mark.parametrize(
    ("annotations", "register"),
    [
        ("absent", register_coco_format),
        (None, register_coco_format),
        ([], register_coco_format),
        ("absent", _register_with_detectron2),
        ([], _register_with_detectron2),
    ],
)
def test_predictions_are_written_for_test_sets_without_annotations(
    tmp_path, own_data, annotations, register
):
    perfect = _perfect(DatasetCatalog.get(own_data)[0])

    def change(content):
        content["annotations"] = annotations
        if annotations == "absent":
            del content["annotations"]

    _change(tmp_path, change)
    results = _evaluate_own("held_back", register, perfect, tmp_path)
    assert results == {}
    saved = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert [result["category_id"] for result in saved] == [4, 7]


def _register_as_records(name, json_file, image_root):
    records = load_coco_json(str(json_file), str(image_root), name)
    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).thing_classes = ["x", "y"]
    DatasetCatalog.register(name, lambda: records)


@pytest.mark.parametrize(
    "register", [register_coco_format, _register_with_detectron2, _register_as_records]
)
@pytest.mark.parametrize("lacking", [2, 1])
def test_masks_are_not_evaluated_where_an_object_has_none(
    tmp_path, own_data, caplog, register, lacking
):
    perfect = _perfect(DatasetCatalog.get(own_data)[0])

    def change(content):
        for annotation in content["annotations"][:lacking]:
            del annotation["segmentation"]
        if lacking == 1:  # a crowd can have the only mask
            content["annotations"][1].update(iscrowd=1, area=800)

    _change(tmp_path, change)
    name = "evaluated_boxes"
    results = _evaluate_own(name, register, perfect, tmp_path)
    assert set(results) == {"bbox"}
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert f"{lacking} of 2 annotations of {name} have no masks" in caplog.text


def test_annotations_of_images_that_are_not_listed_need_no_area(tmp_path, own_data):
    perfect = _perfect(DatasetCatalog.get(own_data)[0])
    _change(
        tmp_path,
        lambda content: content["annotations"].append(
            {
                "id": 9,
                "image_id": 5,
                "category_id": 4,
                "bbox": [0, 0, 2, 2],
                "segmentation": [[0] * 6],
            }
        ),
    )
    assert _evaluate(own_data, lambda _: perfect)["bbox"]["AP"] == pytest.approx(100)


def test_missing_annotations_of_other_data_are_named(tmp_path, own_data):
    (tmp_path / "own.json").unlink()
    with pytest.raises(FileNotFoundError, match="own.json"):
        build_coco_evaluator(own_data, distributed=False)


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
