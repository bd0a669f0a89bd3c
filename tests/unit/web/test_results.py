"""Results of the page: what is kept of a prediction, its pictures, its table and its JSON."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as run_length

from vit_adapter.drawing import channels_as_rgb, draw_prediction
from vit_adapter.web import MIN_SCORE, Result, draw, entries, predict, table, views

SIZE = (40, 60)
CLASSES = {
    "thing_classes": ["cat", "dog"],
    "stuff_classes": ["cat", "dog", "sky"],
    "stuff_colors": [(200, 0, 0), (0, 200, 0), (0, 0, 200)],
}


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def result_of(prediction: dict, image: np.ndarray) -> Result:
    class Predictor(SimpleNamespace):
        def __call__(self, given: np.ndarray) -> dict:
            assert given is image
            return prediction

    return predict(Predictor(metadata=Metadata(**CLASSES)), image, file_name="a.png", model="b")


def detections(*, masks: bool) -> Instances:
    """Three detections, of which the last is too weak to be kept; the second is the best."""
    corners = torch.tensor([[2.0, 3.0, 12.0, 18.0], [20.0, 5.0, 50.5, 35.0], [0.0, 0.0, 9.0, 9.0]])
    instances = Instances(
        SIZE,
        pred_boxes=Boxes(corners),
        scores=torch.tensor([0.5, 0.75, MIN_SCORE / 2]),
        pred_classes=torch.tensor([1, 0, 1]),
    )
    if masks:
        instances.pred_masks = torch.zeros(3, *SIZE, dtype=torch.bool)
        instances.pred_masks[0, 4:15, 3:10] = True
        instances.pred_masks[1, 6:30, 22:50] = True
    return instances


def same(first: Image.Image, second: Image.Image) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


def test_detections_as_entries_table_and_json(image: np.ndarray) -> None:
    result = result_of({"instances": detections(masks=True)}, image)
    assert views(result) == ["Boxes and masks", "Boxes", "Masks"]
    assert result.title == "a.png, b"
    found = entries(result, "Boxes", MIN_SCORE)
    assert json.loads(json.dumps(found)) == found
    assert [entry["category_name"] for entry in found] == ["cat", "dog"]
    assert found[0]["file_name"] == "a.png" and found[0]["score"] == 0.75
    assert found[0]["bbox"] == [20.0, 5.0, 30.5, 30.0]  # x, y, width, height
    mask = run_length.decode(found[1]["segmentation"])
    assert mask.shape == SIZE and mask.sum() == 77 and mask[4:15, 3:10].all()
    assert entries(result, "Masks", 0.6) == found[:1]
    assert entries(result, "Boxes and masks", 0.8) == []
    assert table(found, "Boxes") == (
        ["class", "score", "x", "y", "width", "height"],
        [["cat", 0.75, 20.0, 5.0, 30.5, 30.0], ["dog", 0.5, 2.0, 3.0, 10.0, 15.0]],
    )


def test_pictures_of_detections(image: np.ndarray) -> None:
    prediction = {"instances": detections(masks=True)}
    result = result_of(prediction, image)
    order = torch.tensor([1, 0])  # as kept, with the best first
    expected, _ = draw_prediction(
        image, {"instances": prediction["instances"][order]}, result.metadata, 0.3
    )
    pictures = {view: draw(result, view, 0.3) for view in views(result)}
    assert same(pictures["Boxes and masks"], expected)
    boxes_only = result_of({"instances": detections(masks=False)}, image)
    assert same(pictures["Boxes"], draw(boxes_only, "Boxes", 0.3))
    assert not same(pictures["Masks"], pictures["Boxes"])
    assert not same(pictures["Masks"], pictures["Boxes and masks"])
    for view in views(result):
        nothing, _ = draw_prediction(image, {"instances": detections(masks=False)}, Metadata(), 1.0)
        assert same(draw(result, view, 1.0), nothing)


def test_images_of_other_channels_are_kept_as_they_are_shown() -> None:
    image = np.random.default_rng(0).uniform(0, 4000, (*SIZE, 5)).astype(np.float32)
    result = result_of({"instances": detections(masks=True)}, image)
    assert np.array_equal(result.image[:, :, ::-1], channels_as_rgb(image))


def test_a_model_without_masks_or_without_detections(image: np.ndarray) -> None:
    result = result_of({"instances": detections(masks=False)}, image)
    assert views(result) == ["Boxes"]
    assert "segmentation" not in entries(result, "Boxes", 0.0)[0]
    result = result_of({"instances": detections(masks=True)[2:]}, image)
    assert views(result) == ["Boxes"]
    assert table(entries(result, "Boxes", 0.0), "Boxes")[1] == []


def test_panoptic_segments(image: np.ndarray) -> None:
    ids = torch.zeros(SIZE, dtype=torch.int32)
    ids[:10], ids[10:20, :30] = 1, 2
    segments = [
        {"id": 1, "isthing": False, "category_id": 2},
        {"id": 2, "isthing": True, "category_id": 1, "score": 0.9},
    ]
    prediction = {"panoptic_seg": (ids, segments), "instances": detections(masks=True)}
    result = result_of(prediction, image)
    assert views(result) == ["Panoptic", "Boxes and masks", "Boxes", "Masks"]
    found = entries(result, "Panoptic", 1.0)
    assert table(found, "Panoptic") == (
        ["class", "kind", "score", "pixels"],
        [["sky", "stuff", "", 600], ["dog", "thing", 0.9, 300]],
    )
    assert run_length.decode(found[1]["segmentation"])[10:20, :30].all()
    assert json.loads(json.dumps(found)) == found
    expected, _ = draw_prediction(image, prediction, result.metadata, 0.5)
    assert same(draw(result, "Panoptic", 0.5), expected)


def test_classes_of_pixels(image: np.ndarray) -> None:
    scores = torch.zeros(3, *SIZE)
    scores[2, :30], scores[0, 30:] = 1, 1
    result = result_of({"sem_seg": scores}, image)
    assert views(result) == ["Semantic"]
    found = entries(result, "Semantic", 0.5)
    assert table(found, "Semantic") == (["class", "pixels"], [["cat", 600], ["sky", 1800]])
    assert run_length.decode(found[1]["segmentation"])[:30].all()
    assert json.loads(json.dumps(found)) == found
    expected, _ = draw_prediction(image, {"sem_seg": scores}, result.metadata, 0.5)
    assert same(draw(result, "Semantic", 0.5), expected)
