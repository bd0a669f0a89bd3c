"""Data that are valid but probably not intended cause a warning with their number."""

import logging
from pathlib import Path

import pytest

from vit_adapter.data.instances.coco_oddities import warn_of_oddities

POLYGON, CODE = [[2, 2, 8, 2, 8, 8]], {"size": [20, 30], "counts": [50, 10, 540]}


def _warnings(caplog, *annotations, images=None):
    usual = {"image_id": 1, "bbox": [2, 2, 6, 6], "iscrowd": 0, "segmentation": POLYGON}
    images = images or {1: {"height": 20, "width": 30, "file_name": "a.png"}}
    annotations = [{**usual, **changes} for changes in annotations]
    with caplog.at_level(logging.WARNING):
        warn_of_oddities(annotations, images, Path("own.json"))
    return [record.getMessage() for record in caplog.records]


def test_usual_data_cause_no_warning(caplog):
    crowd = dict(iscrowd=1, segmentation=CODE)
    assert _warnings(caplog, crowd, *[{}] * 9, dict(bbox=[-1, -1, 32, 22])) == []


@pytest.mark.parametrize("segmentation", [POLYGON, None])
def test_crowds_unlike_those_of_coco(caplog, segmentation):
    crowd = dict(iscrowd=1, segmentation=segmentation)
    (message,) = _warnings(caplog, crowd, *[{}] * 99)
    assert message.startswith("1 of 100 annotations in own.json are crowds (iscrowd=1)")


def test_more_crowds_than_in_coco(caplog):
    crowd = dict(iscrowd=1, segmentation=CODE)
    (message,) = _warnings(caplog, *[crowd] * 2, *[{}] * 9)
    assert message.startswith("2 of 11 annotations in own.json are crowds")


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([3, 3, 0, 5], "1 of 3 boxes in own.json have no area"),
        ([0.3, 0.3, 0.5, 0.2], "1 of 3 boxes in own.json are smaller than a pixel"),
        ([20, 10, 28, 18], "1 of 3 boxes in own.json reach beyond their image"),
        ([-3, 2, 6, 6], "1 of 3 boxes in own.json reach beyond their image"),
        ([2, 15, 6, 7], "1 of 3 boxes in own.json reach beyond their image"),
    ],
)
def test_boxes(caplog, box, expected):
    (message,) = _warnings(caplog, {}, dict(bbox=box, segmentation=None), {})
    assert message.startswith(expected)


@pytest.mark.parametrize(
    ("segmentation", "is_flat"),
    [
        ([[2, 2, 2, 5, 2, 8]], True),
        ([[2, 2, 8, 2, 4, 2]], True),
        ([[3, 3] * 3, [4, 4] * 3], True),
        ([[3, 3] * 3, [2, 2, 8, 2, 8, 8]], False),
        (CODE, False),
    ],
)
def test_masks_without_area(caplog, segmentation, is_flat):
    messages = _warnings(caplog, {}, dict(segmentation=segmentation))
    assert [m.startswith("1 of 2 masks in own.json have no area") for m in messages] == (
        [True] if is_flat else []
    )


@pytest.mark.parametrize(
    ("segmentation", "is_outside"),
    [
        ([[200, 2, 208, 2, 208, 8]], True),  # of a larger image
        ([[2, -9, 8, -9, 8, -3]], True),
        ([[2, 10, 8, 10, 8, 12], [12, 2, 18, 2, 18, 8]], True),
        ([[2, 10, 8, 10, 8, 12], [2, 2, 8, 2, 8, 8]], False),
        ([[9, 8, 12, 8, 12, 12]], False),  # a pixel apart
        (CODE, False),
    ],
)
def test_masks_outside_their_boxes(caplog, segmentation, is_outside):
    messages = _warnings(caplog, {}, dict(segmentation=segmentation))
    assert [m.startswith("1 of 2 masks in own.json lie outside their boxes") for m in messages] == (
        [True] if is_outside else []
    )


@pytest.mark.parametrize("name", ["a.png", "./a.png"])
def test_files_that_are_listed_twice(caplog, name):
    size = dict(height=20, width=30)
    images = {1: dict(size, file_name="a.png"), 2: dict(size, file_name=name)}
    (message,) = _warnings(caplog, {}, images=images)
    assert message.startswith("1 of 2 images in own.json name the same file as another")
    assert _warnings(caplog, {}, images={**images, 2: dict(size, file_name="b.png")}) == [message]
