"""Data that are valid, but rarely meant, raise a warning with their number."""

import logging
from pathlib import Path

import pytest

from vit_adapter.data.coco_oddities import warn_of_oddities

POLYGON, CODE = [[2, 2, 8, 2, 8, 8]], {"size": [20, 30], "counts": [50, 10, 540]}


def _warnings(caplog, *annotations):
    usual = {"image_id": 1, "bbox": [2, 2, 6, 6], "iscrowd": 0, "segmentation": POLYGON}
    images = {1: {"height": 20, "width": 30}}
    annotations = [{**usual, **changes} for changes in annotations]
    with caplog.at_level(logging.WARNING):
        warn_of_oddities(annotations, images, Path("own.json"))
    return [record.getMessage() for record in caplog.records]


def test_usual_data_raise_none(caplog):
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
    (message,) = _warnings(caplog, {}, dict(bbox=box), {})
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
