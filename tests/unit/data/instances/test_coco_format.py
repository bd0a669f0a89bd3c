"""Custom COCO-format data: what is accepted, and that all broken entries are named."""

import copy
import json
import logging

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_util

from vit_adapter.data import check_has_objects, register_coco_format
from vit_adapter.data.instances import coco_format

SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "images" / name)
    yield tmp_path
    for name in [name for name in DatasetCatalog.list() if name.startswith("own_")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _content():
    annotations = [
        {
            "id": 10 + index,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": [2, 2, 6, 6],
            "area": 36,
            "iscrowd": 0,
            "segmentation": [SQUARE],
        }
        for index, (image_id, category_id) in enumerate([(1, 7), (1, 3), (2, 90)])
    ]
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 20, "width": 30},
            {"id": 2, "file_name": "sub/b.png", "height": 20, "width": 30},
        ],
        "annotations": annotations,
        "categories": [
            {"id": 90, "name": "nut"},
            {"id": 3, "name": "bolt"},
            {"id": 7, "name": "washer"},
        ],
    }


def _write(folder, content):
    path = folder / "own.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _register(folder, content, name="own_data"):
    return register_coco_format(name, _write(folder, content), folder / "images")


def _run_length(mask=None):
    mask = np.pad(np.ones((6, 6), np.uint8), ((2, 12), (2, 22))) if mask is None else mask
    code = mask_util.encode(np.asfortranarray(mask))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


# ---------------------------------------------------------------- accepted


def test_valid_data_load_with_contiguous_classes_in_order_of_their_ids(folder):
    metadata = _register(folder, _content())
    assert metadata.thing_classes == ["bolt", "washer", "nut"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1, 90: 2}
    assert metadata.mask_format == "polygon" and metadata.evaluator_type == "coco"
    records = DatasetCatalog.get("own_data")
    assert [r["file_name"] for r in records] == [
        str(folder / "images" / "a.png"),
        str(folder / "images" / "sub" / "b.png"),
    ]
    assert [[a["category_id"] for a in r["annotations"]] for r in records] == [[1, 0], [2]]


def test_paths_may_be_relative_and_strings(folder, monkeypatch):
    _write(folder, _content())
    monkeypatch.chdir(folder)
    metadata = register_coco_format("own_relative", "own.json", "images")
    monkeypatch.chdir("/")
    assert metadata.json_file == str(folder / "own.json")
    assert len(DatasetCatalog.get("own_relative")) == 2


def test_run_length_codes_need_bit_masks(folder):
    content = _content()
    content["annotations"][1]["segmentation"] = _run_length()
    content["annotations"][2]["segmentation"] = {"size": [20, 30], "counts": [50, 10, 540]}
    assert _register(folder, content).mask_format == "bitmask"
    segmentation = DatasetCatalog.get("own_data")[1]["annotations"][0]["segmentation"]
    assert mask_util.decode(segmentation).sum() == 10


def test_run_length_codes_of_crowds_do_not_count(folder):
    content = _content()
    content["annotations"][1] |= {"segmentation": _run_length(), "iscrowd": 1}
    assert _register(folder, content).mask_format == "polygon"


@pytest.mark.parametrize("empty", [None, [], "absent"])
def test_data_without_any_masks_are_boxes(folder, empty):
    content = _content()
    for annotation in content["annotations"]:
        annotation["segmentation"] = empty
        if empty == "absent":
            del annotation["segmentation"]
    assert _register(folder, content).mask_format is None
    assert len(DatasetCatalog.get("own_data")) == 2


def test_boxes_without_area_are_counted_in_a_warning(folder, caplog):
    content = _content()
    content["annotations"][1]["bbox"] = [2, 2, 6, 0]
    _register(folder, content)
    assert "1 of 3 boxes" in caplog.text and "have no area" in caplog.text
    assert len(DatasetCatalog.get("own_data")) == 2


def test_images_without_annotations_are_fine(folder):
    content = _content()
    del content["annotations"][2]
    _register(folder, content)
    assert DatasetCatalog.get("own_data")[1]["annotations"] == []


@pytest.mark.parametrize("annotations", ["absent", None, []])
def test_test_sets_come_without_annotations(folder, annotations):
    content = _content()
    content["annotations"] = annotations
    if annotations == "absent":
        del content["annotations"]
    metadata = _register(folder, content)
    assert metadata.mask_format is None and metadata.num_objects == 0
    assert len(metadata.thing_classes) == 3
    assert [record["annotations"] for record in DatasetCatalog.get("own_data")] == [[], []]
    with pytest.raises(ValueError, match="'own_data' .*own.json. has no objects.* no annotations"):
        check_has_objects("own_data")


def test_values_of_other_types_load_as_those_of_coco(folder, caplog):
    _register(folder, _content(), "own_usual")
    assert not caplog.text and check_has_objects("own_usual") is None
    usual = DatasetCatalog.get("own_usual")
    content = _content()
    for index, image in enumerate(content["images"]):
        image.update(width="30", height=20.0, id=[1.0, 2][index])
    for index, annotation in enumerate(content["annotations"]):
        annotation.update(
            iscrowd=["0", None, False][index],
            category_id=str(annotation["category_id"]),
            bbox=list(map(str, annotation["bbox"])),
            area=[None, "36", [36]][index],
            keypoints=None,
        )
    metadata = _register(folder, content)
    assert metadata.num_objects == 3
    assert "own.json has values that COCO writes differently" in caplog.text
    assert "3 x 'iscrowd', 3 x 'bbox', 3 x 'area'" in caplog.text
    records = DatasetCatalog.get("own_data")
    assert records == usual
    numbers = [record[key] for record in records for key in ("image_id", "height", "width")]
    assert set(map(type, numbers)) == {int}


def test_the_file_itself_is_read_if_nothing_changes(folder, monkeypatch):
    _register(folder, _content())
    monkeypatch.setattr(coco_format, "read_coco_json", None)  # no copy, which may take gigabytes
    assert len(DatasetCatalog.get("own_data")) == 2


def test_registering_twice_is_fine_and_other_arguments_are_not(folder):
    first = _register(folder, _content())
    assert _register(folder, _content()) is first
    (folder / "others").mkdir()
    with pytest.raises(ValueError, match="'own_data' is already registered with .*own.json"):
        register_coco_format("own_data", folder / "own.json", folder / "others")
    with pytest.raises(ValueError, match="'coco_2017_val' is already registered"):
        register_coco_format("coco_2017_val", folder / "own.json", folder / "images")


def test_boxes_given_as_corners_cause_a_warning(folder, caplog):
    content = _content()
    content["annotations"][0]["bbox"] = [20, 10, 28, 18]  # x1, y1, x2, y2
    with caplog.at_level(logging.WARNING):
        _register(folder, content)
    assert "1 of 3 boxes" in caplog.text and "(x1, y1, x2, y2)" in caplog.text


# ---------------------------------------------------------------- the file


def test_a_missing_json_file_is_named(folder):
    with pytest.raises(FileNotFoundError, match="none.json does not exist"):
        register_coco_format("own_data", folder / "none.json", folder / "images")


def test_a_missing_image_folder_is_named(folder):
    with pytest.raises(FileNotFoundError, match="pictures of data set 'own_data' does not exist"):
        register_coco_format("own_data", _write(folder, _content()), folder / "pictures")


def test_truncated_json_is_located(folder):
    text = json.dumps(_content(), indent=1)
    message = r"own.json is not valid JSON: .* at line \d+, column \d+. The file is truncated"
    for end in (0, len(text) // 2, text.index("a.png") + 2, len(text) - 1):
        with pytest.raises(ValueError, match=message):
            _register(folder, text[:end])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "// of May\n" + text,
        lambda text: text[:-1] + ",}",
        lambda text: text.replace('"', "'"),
        lambda text: text + "\n" + text,
    ],
)
def test_other_mistakes_in_json_are_not_called_truncated(folder, change):
    with pytest.raises(ValueError, match=r"column \d+. Correct it there"):
        _register(folder, change(json.dumps(_content())))


def test_binary_files_are_recognised(folder):
    (folder / "own.json").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(ValueError, match="own.json is not a text file"):
        register_coco_format("own_data", folder / "own.json", folder / "images")


@pytest.mark.parametrize("key", ["images", "categories"])
def test_missing_empty_and_malformed_sections_are_named(folder, key):
    content = _content()
    del content[key]
    with pytest.raises(ValueError, match=f"has no '{key}'"):
        _register(folder, content)
    with pytest.raises(ValueError, match=f"'{key}' in .*own.json is empty"):
        _register(folder, {**content, key: []})
    with pytest.raises(ValueError, match=f"'{key}' in .*must be a list of objects"):
        _register(folder, {**content, key: [1]})
    assert "own_data" not in DatasetCatalog


@pytest.mark.parametrize("annotations", [1, {}, [1]])
def test_malformed_annotations_are_named(folder, annotations):
    with pytest.raises(ValueError, match="'annotations' in .*must be a list of objects"):
        _register(folder, {**_content(), "annotations": annotations})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_and_byte_order_marks_are_read(folder, encoding):
    content = _content()
    content["categories"][0]["name"] = "Nuß"
    text = json.dumps(content, ensure_ascii=False)
    (folder / "own.json").write_text(text, encoding=encoding)
    metadata = register_coco_format("own_data", folder / "own.json", folder / "images")
    assert metadata.thing_classes[-1] == "Nuß"
    assert len(DatasetCatalog.get("own_data")) == 2


def test_several_byte_order_marks_are_read(folder):
    _register(folder, "\ufeff\ufeff" + json.dumps(_content()))
    assert len(DatasetCatalog.get("own_data")) == 2


def test_files_in_other_encodings_are_named(folder):
    content = _content()
    content["categories"][0]["name"] = "Nuß"
    path = folder / "own.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="latin-1")
    with pytest.raises(ValueError, match="own.json is not a text file in UTF-8.*saved as UTF-8"):
        register_coco_format("own_data", path, folder / "images")


def test_a_list_of_results_is_not_a_data_set(folder):
    with pytest.raises(ValueError, match="holds a list.*format of results"):
        _register(folder, [])


# ---------------------------------------------------------------- its entries


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
    "code of other size": (_mask({**_run_length(), "size": [30, 20]}), "not the .height, width."),
    "code too short": (_mask({"size": [20, 30], "counts": [10, 20]}), "do not add up"),
    "code of negative run": (_mask({"size": [20, 30], "counts": [-10, 610]}), "corrupt"),
    "code without pixels": (_mask({"size": [20, 30], "counts": [600]}), "without any pixel"),
    "code truncated": (
        _mask({"size": [20, 30], "counts": _run_length()["counts"][:-3]}),
        "corrupt or truncated|do not add up",
    ),
    "keypoints of text": (_change("annotations", 1, keypoints="x"), r"'keypoints' is not .*='x'"),
    "keypoints of null": (_change("annotations", 1, keypoints=[1, None, 2]), "'keypoints' is not"),
    "code of other letters": (_mask({"size": [20, 30], "counts": "\x01é"}), "corrupt"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_entries_are_named_and_nothing_is_registered(folder, case):
    change, message = BROKEN[case]
    content = _content()
    change(content)
    with pytest.raises(ValueError, match=f"(?s)own.json cannot be used:.*{message}"):
        _register(folder, content)
    assert "own_data" not in DatasetCatalog


def test_all_kinds_of_problems_are_reported_at_once_with_counts_and_examples(folder):
    content = _content()
    content["annotations"][0]["bbox"] = [0, 0, -1, 0]
    image = content["images"][0]
    content["images"] += [{**image, "id": 100 + i, "file_name": f"gone{i}.png"} for i in range(12)]
    with pytest.raises(ValueError) as error:
        _register(folder, content)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("- 12 x image file missing in")
    assert lines[1].endswith("gone0.png, gone1.png, gone2.png, gone3.png, gone4.png, ...")
    assert lines[2].startswith("- 1 x 'bbox' has a negative width")


def test_every_truncation_of_a_code_is_found(folder):
    noise = np.random.default_rng(0).random((20, 30)) < 0.5
    code = _run_length(noise.astype(np.uint8))
    for length in range(1, len(code["counts"])):
        content = _content()
        _mask({**code, "counts": code["counts"][:length]})(content)
        with pytest.raises(ValueError, match="corrupt or truncated|do not add up"):
            _register(folder, content)
    content = _content()
    _mask(code)(content)
    assert _register(folder, content).mask_format == "bitmask"


def test_problems_in_one_entry_do_not_hide_others(folder):
    content = copy.deepcopy(_content())
    content["annotations"][1].update(bbox=None, category_id=1, segmentation=[[1]])
    with pytest.raises(ValueError) as error:
        _register(folder, content)
    assert len(str(error.value).splitlines()) == 1 + 3
