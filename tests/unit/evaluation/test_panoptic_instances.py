"""Box and mask AP of panoptic data, whose things share a range of classes with stuff."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators
from detectron2.structures import BitMasks, Instances
from PIL import Image

from vit_adapter.data import register_shapes
from vit_adapter.data.catalog import register, unregister
from vit_adapter.data.image_io import colours_of_ids, read_segment_ids
from vit_adapter.evaluation import (
    PanopticEvaluator,
    build_coco_evaluator,
    build_panoptic_evaluator,
)

NAME = "panoptic_of_a_test"
SHAPES = "shapes_val_panoptic"


@pytest.fixture(autouse=True)
def _data(tmp_path: Path) -> Iterator[None]:
    """One image with the classes stuff, thing, stuff, thing; and shapes."""
    register_shapes(tmp_path / "shapes", num_train=1, num_val=2, image_size=64, seed=5)
    ids = np.zeros((40, 60), int)
    ids[:20], ids[22:30, :20], ids[22:30, 20:40], ids[30:, 5:9] = 4, 10, 400, 90_000
    Image.fromarray(colours_of_ids(ids)).save(tmp_path / "map.png")
    segments = [
        {"id": 4, "category_id": 2},
        {"id": 10, "category_id": 1},
        {"id": 400, "category_id": 3, "iscrowd": 0},
        {"id": 90_000, "category_id": 3, "iscrowd": 1},
    ]
    record = {
        "file_name": "image.jpg",
        "image_id": "image",
        "pan_seg_file_name": str(tmp_path / "map.png"),
        "segments_info": segments,
    }
    register(
        NAME,
        lambda: [record],
        panoptic_json="labels.json",
        stuff_classes=["sky", "cat", "road", "dog"],
        thing_classes=["sky", "cat", "road", "dog"],
        thing_dataset_id_to_contiguous_id={70: 1, 50: 3},
        stuff_dataset_id_to_contiguous_id={60: 0, 80: 2},
    )
    yield
    unregister(NAME)
    register_shapes()


def perfect(record: dict, things: tuple[int, ...]) -> Instances:
    """The labelled things, crowds left out."""
    ids = torch.from_numpy(read_segment_ids(record["pan_seg_file_name"]))
    segments = [s for s in record["segments_info"] if s["category_id"] in things]
    segments = [s for s in segments if not s.get("iscrowd")]
    instances = Instances(tuple(ids.shape))
    instances.pred_masks = torch.stack([ids == s["id"] for s in segments])
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
    instances.pred_classes = torch.tensor([s["category_id"] for s in segments])
    instances.scores = torch.ones(len(segments))
    return instances


def evaluate(name: str, predict: Callable, build: Callable = build_coco_evaluator) -> dict:
    evaluator = build(name, distributed=False)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        evaluator.process([record], [predict(record)])
    return evaluator.evaluate()


def test_things_anywhere_in_the_range_of_classes() -> None:
    results = evaluate(NAME, lambda record: {"instances": perfect(record, (1, 3))})
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100)
        assert results[task]["AP-cat"] == results[task]["AP-dog"] == pytest.approx(100)
        assert not {"AP-sky", "AP-road"} & set(results[task])
    assert MetadataCatalog.get(NAME).thing_classes == ["sky", "cat", "road", "dog"]


def test_a_missed_thing_and_a_crowd() -> None:
    results = evaluate(NAME, lambda record: {"instances": perfect(record, (1, 3))[:1]})
    assert (results["segm"]["AP-cat"], results["segm"]["AP-dog"]) == (pytest.approx(100), 0)

    def with_crowd(record):
        instances = perfect(record, (1, 3))
        ids = torch.from_numpy(read_segment_ids(record["pan_seg_file_name"]))
        crowd = instances[1:]
        crowd.pred_masks = ids[None] == 90_000
        crowd.pred_boxes = BitMasks(crowd.pred_masks).get_bounding_boxes()
        crowd.scores = torch.tensor([2.0])
        return {"instances": Instances.cat([crowd, instances])}

    assert evaluate(NAME, with_crowd)["segm"]["AP-dog"] == pytest.approx(100)


def test_stuff_among_the_instances_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"class 2 in image image, but .* are \[1, 3\]"):
        evaluate(NAME, lambda record: {"instances": perfect(record, (1, 2))})


def test_panoptic_quality_and_ap_of_one_run() -> None:
    def predict(record):
        ids = torch.from_numpy(read_segment_ids(record["pan_seg_file_name"]))
        segments = [
            {"id": s["id"], "category_id": s["category_id"]} for s in record["segments_info"]
        ]
        return {"panoptic_seg": (ids, segments), "instances": perfect(record, (0, 1, 2))}

    results = evaluate(SHAPES, predict, build_panoptic_evaluator)
    assert set(results) == {"panoptic_seg", "bbox", "segm"}
    assert results["panoptic_seg"]["PQ"] == 100
    assert results["segm"]["AP"] == results["bbox"]["AP"] == pytest.approx(100)


def test_models_without_instances() -> None:
    assert isinstance(build_panoptic_evaluator(SHAPES), DatasetEvaluators)
    assert isinstance(build_panoptic_evaluator(SHAPES, instances=False), PanopticEvaluator)


def test_data_without_things_have_no_ap() -> None:
    records = DatasetCatalog.get(NAME)
    unregister(NAME)
    register(
        NAME,
        lambda: records,
        panoptic_json="labels.json",
        stuff_classes=["sky", "cat", "road", "dog"],
        thing_dataset_id_to_contiguous_id={},
        stuff_dataset_id_to_contiguous_id={60: 0, 70: 1, 80: 2, 50: 3},
    )
    assert isinstance(build_panoptic_evaluator(NAME), PanopticEvaluator)
