"""Custom COCO-format data: all broken entries are named."""

import copy

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from own_file import SQUARE, make_content, register, run_length


def _change(section, index, **values):
    def change(content):
        for key, value in values.items():
            if value == "absent":
                del content[section][index][key]
            else:
                content[section][index][key] = value

    return change


def _box(*box):
    return _change("annotations", 1, bbox=list(box))


def _mask(segmentation):
    return _change("annotations", 1, segmentation=segmentation)


BROKEN = {
    "category without name": (_change("categories", 1, name="absent"), "without an integer 'id'"),
    "category without text": (_change("categories", 1, name=""), r"categories\[1\]"),
    "category of text": (_change("categories", 1, id="x"), r"categories\[1\] = .'id': 'x'"),
    "name twice": (_change("categories", 1, name="nut"), "name that occurs twice.*: 'nut'"),
    "category twice": (_change("categories", 1, id=7), "category id that occurs twice: 7"),
    "image without file_name": (_change("images", 0, file_name="absent"), r"images\[0\]"),
    "image without id": (_change("images", 0, id="absent"), "image without 'id'"),
    "image twice": (_change("images", 0, id=2), "image id that occurs twice: 2"),
    "image without height": (_change("images", 0, height="absent"), r"a.png \(height=None"),
    "image of 0 pixels": (_change("images", 0, width=0), r"a.png \(height=20, width=0\)"),
    "image of 1 pixel": (_change("images", 0, height=1), "at least 2 pixels"),
    "file_name null": (_change("images", 0, file_name=None), r"images\[0\]"),
    "file_name empty": (_change("images", 0, file_name=""), r"images\[0\]"),
    "boolean image id": (_change("images", 0, id=True), r"images\[0\]"),
    "image of text": (_change("images", 0, width="wide"), r"a.png \(height=20, width='wide'\)"),
    "image ids of two kinds": (
        _change("images", 1, id="x"),
        r"id that is a string.*: 'x' of sub/b.png and 1 of a.png",
    ),
    "image missing": (_change("images", 1, file_name="c.png"), "1 x image file missing in .*c.png"),
    "unknown image": (_change("annotations", 1, image_id=5), r"annotation 11 \(image_id=5\)"),
    "no image": (_change("annotations", 1, image_id="absent"), r"11 \(image_id=None\)"),
    "id of other text": (_change("annotations", 1, image_id="1.0x"), r"list \(1, 2\): .*'1.0x'"),
    "unknown category": (
        _change("annotations", 1, category_id=4),
        r"\(\[3, 7, 90\]\): annotation 11 \(category_id=4\)",
    ),
    "no category": (_change("annotations", 1, category_id="absent"), r"\(category_id=None\)"),
    "unhashable category": (_change("annotations", 1, category_id=[3]), r"\(category_id=\[3\]\)"),
    "image of another type": (_change("annotations", 1, image_id=3.5), r"11 \(image_id=3.5\)"),
    "boolean image": (_change("annotations", 1, image_id=True), r"11 \(image_id=True\)"),
    "crowd of 2": (_change("annotations", 1, iscrowd=2), r"nor 1: annotation 11 \(iscrowd=2\)"),
    "crowd of text": (_change("annotations", 1, iscrowd="x"), r"\(iscrowd='x'\)"),
    "annotation twice": (_change("annotations", 1, id=10), "occurs twice.*annotation 10"),
    "annotation without id": (_change("annotations", 1, id="absent"), "annotation at index 1"),
    "id null": (_change("annotations", 1, id=None), r"annotation at index 1 \(id=None\)"),
    "ignore": (_change("annotations", 1, ignore=1), "'ignore'.*annotation 11"),
    "no box": (_change("annotations", 1, bbox="absent"), "'bbox' is missing.*11 of a.png"),
    "box of 3": (_box(1, 2, 3), "not four finite numbers.*annotation 11 of a.png"),
    "box of text": (_box(1, 2, 3, "four"), r"numbers.*\(bbox=\[1, 2, 3, 'four'\]\)"),
    "nested box": (_box([1, 2, 3, 4]), r"numbers.*\(bbox=\[\[1, 2, 3, 4\]\]\)"),
    "box of truths": (_box(True, True, True, True), "not four finite numbers"),
    "box of NaN": (_box(1, 2, float("nan"), 4), "not four finite numbers"),
    "box of negative height": (_box(1, 2, 3, -4), "negative width or height.*11 of a.png"),
    "box outside": (_box(31, 2, 5, 5), "outside the image"),
    "box left of image": (_box(-9, 2, 5, 5), "outside the image"),
    "mask missing": (_mask([]), "without 'segmentation' where others have one.*11 of a.png"),
    "mask of text": (_mask("xyz"), "neither polygons of finite numbers nor"),
    "flat polygon": (_mask(SQUARE), r"neither polygons.*a.png \(segmentation=\[2, 2, "),
    "polygon of NaN": (_mask([[float("inf"), *SQUARE[1:]]]), "finite numbers"),
    "odd polygon": (_mask([SQUARE, SQUARE[:-1]]), "odd number of coordinates.*annotation 11"),
    "line": (_mask([SQUARE[:4]]), "fewer than 3 points"),
    "empty polygon": (_mask([[]]), "fewer than 3 points"),
    "boxes in fractions": (
        lambda content: [a.update(bbox=[0.1, 0.2, 0.5, 1]) for a in content["annotations"]],
        r"3 x 'bbox' with numbers from 0 to 1 only.*pixels.*multiply",
    ),
    "polygon in fractions": (_mask([[0, 0, 0.5, 0, 0.5, 1]]), r"fractions \(0 to 1\).* 11 of"),
    "code without counts": (_mask({"size": [20, 30]}), "without 'size'"),
    "code of other size": (_mask({**run_length(), "size": [30, 20]}), "not the .height, width."),
    "code too short": (_mask({"size": [20, 30], "counts": [10, 20]}), "do not add up"),
    "code of negative run": (_mask({"size": [20, 30], "counts": [-10, 610]}), "corrupt"),
    "code without pixels": (_mask({"size": [20, 30], "counts": [600]}), "without any pixel"),
    "code truncated": (
        _mask({"size": [20, 30], "counts": run_length()["counts"][:-3]}),
        "corrupt or truncated|do not add up",
    ),
    "keypoints of text": (_change("annotations", 1, keypoints="x"), r"'keypoints' is not .*='x'"),
    "keypoints of null": (_change("annotations", 1, keypoints=[1, None, 2]), "'keypoints' is not"),
    "code of other letters": (_mask({"size": [20, 30], "counts": "\x01é"}), "corrupt"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_entries_are_named_and_nothing_is_registered(folder, case):
    change, message = BROKEN[case]
    content = make_content()
    change(content)
    with pytest.raises(ValueError, match=f"(?s)own.json cannot be used:.*{message}"):
        register(folder, content)
    assert "own_data" not in DatasetCatalog


def test_all_kinds_of_problems_are_reported_at_once_with_counts_and_examples(folder):
    content = make_content()
    content["annotations"][0]["bbox"] = [0, 0, -1, 0]
    image = content["images"][0]
    content["images"] += [{**image, "id": 100 + i, "file_name": f"gone{i}.png"} for i in range(12)]
    with pytest.raises(ValueError) as error:
        register(folder, content)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("- 12 x image file missing in")
    assert lines[1].endswith("gone0.png, gone1.png, gone2.png, gone3.png, gone4.png, ...")
    assert lines[2].startswith("- 1 x 'bbox' has a negative width")


def test_every_truncation_of_a_code_is_found(folder):
    noise = np.random.default_rng(0).random((20, 30)) < 0.5
    code = run_length(noise.astype(np.uint8))
    for length in range(1, len(code["counts"])):
        content = make_content()
        _mask({**code, "counts": code["counts"][:length]})(content)
        with pytest.raises(ValueError, match="corrupt or truncated|do not add up"):
            register(folder, content)
    content = make_content()
    _mask(code)(content)
    assert register(folder, content).mask_format == "bitmask"


def test_problems_in_one_entry_do_not_hide_others(folder):
    content = copy.deepcopy(make_content())
    content["annotations"][1].update(bbox=None, category_id=1, segmentation=[[1]])
    with pytest.raises(ValueError) as error:
        register(folder, content)
    assert len(str(error.value).splitlines()) == 1 + 3
