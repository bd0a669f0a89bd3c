"""Predictions as COCO results: instances, segments and classes."""

import json

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from vit_adapter.evaluation.coco_results import coco_results

LEFT = torch.arange(6).expand(4, 6) < 2
IMAGE = {"image_id": 7, "file_name": "a.jpg"}


def convert(prediction, metadata, threshold=0.5):
    return json.loads(json.dumps(coco_results(prediction, metadata, threshold, **IMAGE)))


def test_instances():
    found = Instances(
        (4, 6),
        pred_boxes=Boxes(torch.tensor([[0.0, 0.0, 2.0, 4.0], [1.0, 1.0, 3.0, 2.0]])),
        scores=torch.tensor([0.75, 0.25]),
        pred_classes=torch.tensor([1, 0]),
        pred_masks=torch.stack([LEFT, ~LEFT]),
    )
    metadata = Metadata(
        thing_classes=["cat", "dog"], thing_dataset_id_to_contiguous_id={30: 0, 40: 1}
    )
    (entry,) = convert({"instances": found}, metadata)
    assert np.array_equal(mask_util.decode(entry.pop("segmentation")), LEFT)
    expected = {"category_id": 40, "category_name": "dog", "bbox": [0, 0, 2, 4], "score": 0.75}
    assert entry == IMAGE | expected
    found.remove("pred_masks")
    entries = convert({"instances": found}, Metadata(thing_classes=["cat", "dog"]), 0.0)
    assert [entry["category_id"] for entry in entries] == [1, 0]
    assert entries[1]["bbox"] == [1, 1, 2, 1] and "segmentation" not in entries[0]


def test_panoptic_segments():
    ids = torch.where(LEFT, 3, 0)
    segments = [{"id": 3, "isthing": True, "category_id": 1, "score": 0.5, "area": 8}]
    metadata = Metadata(
        stuff_classes=["sky", "cat"],
        thing_dataset_id_to_contiguous_id={9: 1},
        stuff_dataset_id_to_contiguous_id={5: 0},
    )
    (entry,) = convert({"panoptic_seg": (ids, segments), "instances": None}, metadata)
    assert np.array_equal(mask_util.decode(entry.pop("segmentation")), LEFT)
    expected = {"category_id": 9, "category_name": "cat", "isthing": True, "score": 0.5}
    assert entry == IMAGE | expected


def test_classes_of_a_segmentation():
    scores = torch.stack([LEFT.float(), torch.zeros(4, 6), (~LEFT).float()])
    entries = convert({"sem_seg": scores}, Metadata(stuff_classes=["road", "sky", "tree"]))
    assert [entry["category_name"] for entry in entries] == ["road", "tree"]
    assert np.array_equal(mask_util.decode(entries[1]["segmentation"]), ~LEFT)
