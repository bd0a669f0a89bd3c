"""The COCO evaluator on files that other tools write, and on files without annotations or masks."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from perfect_instances import evaluate, perfect
from PIL import Image

from vit_adapter.data import register_coco_format
from vit_adapter.evaluation import build_coco_evaluator


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
    results = evaluate(own_data, perfect)
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)
    # 40 x 20 = 800 pixels is small for COCO; this comes from the added areas
    assert results["bbox"]["APs"] == pytest.approx(100) and np.isnan(results["bbox"]["APm"])


@pytest.mark.parametrize("labels", [{4: 0, 7: 1}, {4: 1, 7: 0}])
def test_metrics_of_classes_have_the_right_names(own_data, tmp_path, labels):
    names = [{4: "x", 7: "y"}[identifier] for identifier in sorted(labels, key=labels.get)]
    metadata = dict(thing_classes=names, thing_dataset_id_to_contiguous_id=labels)
    register_coco_instances("other_order", metadata, str(tmp_path / "own.json"), str(tmp_path))
    only_y = perfect(DatasetCatalog.get(own_data)[0])[1:]
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
    instances = perfect(DatasetCatalog.get(own_data)[0])

    def change(content):
        content["images"][0]["id"] = image_id
        for annotation in content["annotations"]:
            annotation.update(changes)

    _change(tmp_path, change)  # after registration: the evaluator reads the file itself
    evaluator = build_coco_evaluator(own_data, str(tmp_path / "out"), distributed=False)
    evaluator.reset()
    image_id = int(image_id) if isinstance(image_id, float) else image_id
    evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    results = evaluator.evaluate()
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == results[task]["APs"] == pytest.approx(100)
    saved = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {result["image_id"] for result in saved} == {image_id}


def _evaluate_own(name, register, predicted, tmp_path):
    """Register the changed file under a name for one evaluation."""
    register(name, tmp_path / "own.json", tmp_path)
    try:
        return evaluate(name, lambda _: predicted, str(tmp_path / "out"))
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
    instances = perfect(DatasetCatalog.get(own_data)[0])

    def change(content):
        content["annotations"] = annotations
        if annotations == "absent":
            del content["annotations"]

    _change(tmp_path, change)
    results = _evaluate_own("held_back", register, instances, tmp_path)
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
    instances = perfect(DatasetCatalog.get(own_data)[0])

    def change(content):
        for annotation in content["annotations"][:lacking]:
            del annotation["segmentation"]
        if lacking == 1:  # a crowd can have the only mask
            content["annotations"][1].update(iscrowd=1, area=800)

    _change(tmp_path, change)
    name = "evaluated_boxes"
    results = _evaluate_own(name, register, instances, tmp_path)
    assert set(results) == {"bbox"}
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert f"{lacking} of 2 annotations of {name} have no masks" in caplog.text


def test_annotations_of_images_that_are_not_listed_need_no_area(tmp_path, own_data):
    instances = perfect(DatasetCatalog.get(own_data)[0])
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
    assert evaluate(own_data, lambda _: instances)["bbox"]["AP"] == pytest.approx(100)


def test_missing_annotations_of_other_data_are_named(tmp_path, own_data):
    (tmp_path / "own.json").unlink()
    with pytest.raises(FileNotFoundError, match="own.json"):
        build_coco_evaluator(own_data, distributed=False)
