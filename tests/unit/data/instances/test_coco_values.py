"""Values of types that COCO does not use: how they are converted, and which are unclear."""

import copy
import math
from collections import Counter

import numpy as np
import pytest
from pycocotools import mask as mask_util

from vit_adapter.data.instances.coco_values import (
    complete_annotations,
    flag,
    normalise,
    number,
    whole_number,
)

SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]


@pytest.mark.parametrize("value", [3, 3.0, "3", "3.0", "3.00"])
def test_whole_numbers(value):
    assert whole_number(value) == 3 and type(whole_number(value)) is int
    assert whole_number({3: -3}.get(value, f"-{value}")) == -3


@pytest.mark.parametrize(
    "value", [None, True, 3.5, "3.5", "", "three", "03", " 3", "3e2", [3], math.nan, math.inf, {}]
)
def test_values_that_are_not_whole_numbers(value):
    assert whole_number(value) is None


def test_numbers():
    assert [number(v) for v in (1, 1.5, "1.5", "2", "1e2")] == [1, 1.5, 1.5, 2, 100]
    assert [number(v) for v in (None, True, "", "x", [1], {})] == [None] * 6


@pytest.mark.parametrize(
    ("expected", "values"),
    [
        (0, [None, 0, 0.0, False, "0", "0.0", "false", "False"]),
        (1, [1, 1.0, True, "1", "1.0", "true", "TRUE"]),
        (None, [2, -1, 0.5, "2", "", "yes", [0], {}, math.nan]),
    ],
)
def test_flags(expected, values):
    assert [flag(value) for value in values] == [expected] * len(values)


def _content(annotation=(), image=(), category=()):
    return {
        "images": [
            {"id": 3, "file_name": "a.png", "height": 20, "width": 30, **dict(image)},
            {"id": 4, "file_name": "b.png", "height": 20, "width": 30},
        ],
        "annotations": [
            {
                "id": 7,
                "image_id": 3,
                "category_id": 1,
                "bbox": [2, 2, 6, 6],
                "area": 36,
                "iscrowd": 0,
                "segmentation": [SQUARE],
                **dict(annotation),
            }
        ],
        "categories": [{"id": 1, "name": "bolt", **dict(category)}],
    }


def test_valid_values_stay():
    content = _content()
    assert normalise(content) == Counter() and content == _content()
    del content["annotations"]
    assert normalise(content) == Counter()


ANNOTATION = [
    *[(dict(iscrowd=value), dict(iscrowd=0)) for value in (None, False, 0.0, "0", "false")],
    *[(dict(iscrowd=value), dict(iscrowd=1)) for value in (True, 1.0, "1")],
    *[(dict(ignore=value), dict(ignore=0)) for value in (None, False, "0")],
    *[(dict(id=value), {}) for value in (7.0, "7")],
    *[(dict(image_id=value), {}) for value in (3.0, "3", "3.0")],
    *[(dict(category_id=value), {}) for value in (1.0, "1")],
    (dict(bbox=["2", "2.0", 6, "6"]), {}),
    (dict(segmentation=[list(map(str, SQUARE))]), {}),
    (dict(segmentation=[SQUARE, list(map(str, SQUARE))]), dict(segmentation=[SQUARE, SQUARE])),
    *[
        (dict(segmentation=code), dict(segmentation={"size": [20, 30], "counts": [600]}))
        for code in (
            {"size": [20.0, "30"], "counts": [600]},
            {"size": [20.0, 30.0], "counts": [600]},
            {"size": [20, 30], "counts": [600.0]},
            {"size": [20, 30], "counts": ["600"]},
        )
    ],
    (dict(keypoints=["4", 5, "2"]), dict(keypoints=[4, 5, 2])),
    (dict(area="36"), {}),
]


@pytest.mark.parametrize(("changes", "expected"), ANNOTATION)
def test_values_of_annotations_are_converted(changes, expected):
    content = _content(changes)
    changed = normalise(content)
    assert content["annotations"] == _content(expected)["annotations"]
    assert set(map(type, _flat(content))) <= {int, float, str}
    code = content["annotations"][0]["segmentation"]
    assert not isinstance(code, dict) or set(map(type, _flat(code))) == {int}
    assert sum(changed.values()) == 1


def _flat(value):
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for item in value for leaf in _flat(item)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("area", [None, [36], "x", -1, math.nan, math.inf, 1e12, {}, True])
def test_invalid_areas_are_computed_from_the_mask(area):
    content = _content(dict(area=area))
    assert normalise(content) == {"area": 1}
    assert "area" not in content["annotations"][0]
    complete_annotations(content)
    assert content["annotations"][0]["area"] == 36


def test_null_keypoints_are_absent():
    content = _content(dict(keypoints=None))
    normalise(content)
    assert content == _content()


@pytest.mark.parametrize(
    "changes",
    [
        *[dict(iscrowd=value) for value in (2, "x", [0])],
        *[dict(image_id=value) for value in (None, True, 5, "x", [3], 3.5)],
        *[dict(category_id=value) for value in (None, True, "x", {})],
        *[dict(bbox=value) for value in (None, [[2, 2, 6, 6]], ["x", "y", "z", None], "text")],
        *[dict(segmentation=value) for value in (None, [], {}, "x", [None], [["x", "y"]])],
        dict(segmentation={"size": [20.5, "x"], "counts": [None]}),
        *[dict(id=value) for value in (None, True, [1], "a7")],
    ],
)
def test_unclear_values_stay(changes):
    content = _content(changes)
    assert normalise(content) == Counter()
    assert content == _content(changes)


def test_values_of_images_and_categories_are_converted():
    content = _content(image=dict(width="30", height=20.0), category=dict(id="1", name=5))
    assert normalise(content) == {"width": 1, "height": 1, "id": 1, "name": 1}
    assert content == _content(category=dict(name="5"))
    assert type(content["images"][0]["height"]) is int


@pytest.mark.parametrize(
    ("ids", "expected", "references"),
    [
        ((3.0, "4"), (3, 4), ["3", 3, 3.0]),
        (("3", "4"), ("3", "4"), [3, 3.0, "3", "3.0"]),  # predictions must have the same ids
        (("x", "y"), ("x", "y"), ["x"]),
        (("x", 4.0), ("x", 4), ["x"]),
        ((True, 4), (True, 4), []),
    ],
)
def test_ids_of_images_become_numbers_unless_all_are_strings(ids, expected, references):
    for reference in [*references, "absent"]:
        content = _content(dict(image_id=reference))
        for image, identifier in zip(content["images"], ids, strict=True):
            image["id"] = identifier
        normalise(content)
        found = tuple(image["id"] for image in content["images"])
        assert found == expected and list(map(type, found)) == list(map(type, expected))
        wanted = expected[0] if reference != "absent" else "absent"
        assert content["annotations"][0]["image_id"] == wanted


def test_backslashes_become_slashes_if_that_file_exists(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("sub/a.png", "a\\b.png", "a"):
        (tmp_path / name).touch()
    for name, expected in {
        "sub\\a.png": "sub/a.png",
        ".\\sub\\a.png": "./sub/a.png",
        "a\\b.png": "a\\b.png",
        "none\\a.png": "none\\a.png",
    }.items():
        content = _content(image=dict(file_name=name))
        normalise(content, tmp_path)
        assert content["images"][0]["file_name"] == expected


def test_fields_that_evaluation_needs_are_added():
    content = _content(dict(id="a7"))
    first = content["annotations"][0]
    code = mask_util.encode(np.asfortranarray(np.pad(np.ones((2, 3), np.uint8), 1)))
    code["counts"] = code["counts"].decode()
    masks = {
        36: [SQUARE],  # the pixels of both polygons together
        48: [SQUARE, [10, 2, 12, 2, 12, 8, 10, 8]],
        10: {"size": [20, 30], "counts": [50, 10, 540]},
        6: code,
        35: None,
    }
    for mask in masks.values():
        annotation = {**copy.deepcopy(first), "segmentation": mask, "bbox": [0, 0, 7, 5]}
        del annotation["area"], annotation["iscrowd"]
        content["annotations"].append(annotation)
    complete_annotations(content)
    annotations = content["annotations"]
    assert [annotation["id"] for annotation in annotations] == [1, 2, 3, 4, 5, 6]
    assert [annotation["area"] for annotation in annotations] == [36, *masks]
    assert {annotation["iscrowd"] for annotation in annotations} == {0}
