"""Custom COCO-format data: which files are accepted, and what is wrong with others."""

import json
import logging

import pytest
from detectron2.data import DatasetCatalog
from own_file import make_content, register, run_length, write
from pycocotools import mask as mask_util

from vit_adapter.data import check_has_objects, register_coco_format
from vit_adapter.data.instances import coco_format

# ---------------------------------------------------------------- accepted


def test_valid_data_load_with_contiguous_classes_in_order_of_their_ids(folder):
    metadata = register(folder, make_content())
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
    write(folder, make_content())
    monkeypatch.chdir(folder)
    metadata = register_coco_format("own_relative", "own.json", "images")
    monkeypatch.chdir("/")
    assert metadata.json_file == str(folder / "own.json")
    assert len(DatasetCatalog.get("own_relative")) == 2


def test_run_length_codes_need_bit_masks(folder):
    content = make_content()
    content["annotations"][1]["segmentation"] = run_length()
    content["annotations"][2]["segmentation"] = {"size": [20, 30], "counts": [50, 10, 540]}
    assert register(folder, content).mask_format == "bitmask"
    segmentation = DatasetCatalog.get("own_data")[1]["annotations"][0]["segmentation"]
    assert mask_util.decode(segmentation).sum() == 10


def test_run_length_codes_of_crowds_do_not_count(folder):
    content = make_content()
    content["annotations"][1] |= {"segmentation": run_length(), "iscrowd": 1}
    assert register(folder, content).mask_format == "polygon"


@pytest.mark.parametrize("empty", [None, [], "absent"])
def test_data_without_any_masks_are_boxes(folder, empty):
    content = make_content()
    for annotation in content["annotations"]:
        annotation["segmentation"] = empty
        if empty == "absent":
            del annotation["segmentation"]
    assert register(folder, content).mask_format is None
    assert len(DatasetCatalog.get("own_data")) == 2


def test_boxes_without_area_are_counted_in_a_warning(folder, caplog):
    content = make_content()
    content["annotations"][1]["bbox"] = [2, 2, 6, 0]
    register(folder, content)
    assert "1 of 3 boxes" in caplog.text and "have no area" in caplog.text
    assert len(DatasetCatalog.get("own_data")) == 2


def test_images_without_annotations_are_fine(folder):
    content = make_content()
    del content["annotations"][2]
    register(folder, content)
    assert DatasetCatalog.get("own_data")[1]["annotations"] == []


@pytest.mark.parametrize("annotations", ["absent", None, []])
def test_test_sets_come_without_annotations(folder, annotations):
    content = make_content()
    content["annotations"] = annotations
    if annotations == "absent":
        del content["annotations"]
    metadata = register(folder, content)
    assert metadata.mask_format is None and metadata.num_objects == 0
    assert len(metadata.thing_classes) == 3
    assert [record["annotations"] for record in DatasetCatalog.get("own_data")] == [[], []]
    with pytest.raises(ValueError, match="'own_data' .*own.json. has no objects.* no annotations"):
        check_has_objects("own_data")


def test_values_of_other_types_load_as_those_of_coco(folder, caplog):
    register(folder, make_content(), "own_usual")
    assert not caplog.text and check_has_objects("own_usual") is None
    usual = DatasetCatalog.get("own_usual")
    content = make_content()
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
    metadata = register(folder, content)
    assert metadata.num_objects == 3
    assert "own.json has values that COCO writes differently" in caplog.text
    assert "3 x 'iscrowd', 3 x 'bbox', 3 x 'area'" in caplog.text
    records = DatasetCatalog.get("own_data")
    assert records == usual
    numbers = [record[key] for record in records for key in ("image_id", "height", "width")]
    assert set(map(type, numbers)) == {int}


def test_the_file_itself_is_read_if_nothing_changes(folder, monkeypatch):
    register(folder, make_content())
    monkeypatch.setattr(coco_format, "read_coco_json", None)  # no copy, which may take gigabytes
    assert len(DatasetCatalog.get("own_data")) == 2


def test_registering_twice_is_fine_and_other_arguments_are_not(folder):
    first = register(folder, make_content())
    assert register(folder, make_content()) is first
    (folder / "others").mkdir()
    with pytest.raises(ValueError, match="'own_data' is already registered with .*own.json"):
        register_coco_format("own_data", folder / "own.json", folder / "others")
    with pytest.raises(ValueError, match="'coco_2017_val' is already registered"):
        register_coco_format("coco_2017_val", folder / "own.json", folder / "images")


def test_boxes_given_as_corners_cause_a_warning(folder, caplog):
    content = make_content()
    content["annotations"][0]["bbox"] = [20, 10, 28, 18]  # x1, y1, x2, y2
    with caplog.at_level(logging.WARNING):
        register(folder, content)
    assert "1 of 3 boxes" in caplog.text and "(x1, y1, x2, y2)" in caplog.text


# ---------------------------------------------------------------- the file


def test_a_missing_json_file_is_named(folder):
    with pytest.raises(FileNotFoundError, match="none.json does not exist"):
        register_coco_format("own_data", folder / "none.json", folder / "images")


def test_a_missing_image_folder_is_named(folder):
    with pytest.raises(FileNotFoundError, match="pictures of data set 'own_data' does not exist"):
        register_coco_format("own_data", write(folder, make_content()), folder / "pictures")


def test_truncated_json_is_located(folder):
    text = json.dumps(make_content(), indent=1)
    message = r"own.json is not valid JSON: .* at line \d+, column \d+. The file is truncated"
    for end in (0, len(text) // 2, text.index("a.png") + 2, len(text) - 1):
        with pytest.raises(ValueError, match=message):
            register(folder, text[:end])


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
        register(folder, change(json.dumps(make_content())))


def test_binary_files_are_recognised(folder):
    (folder / "own.json").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(ValueError, match="own.json is not a text file"):
        register_coco_format("own_data", folder / "own.json", folder / "images")


@pytest.mark.parametrize("key", ["images", "categories"])
def test_missing_empty_and_malformed_sections_are_named(folder, key):
    content = make_content()
    del content[key]
    with pytest.raises(ValueError, match=f"has no '{key}'"):
        register(folder, content)
    with pytest.raises(ValueError, match=f"'{key}' in .*own.json is empty"):
        register(folder, {**content, key: []})
    with pytest.raises(ValueError, match=f"'{key}' in .*must be a list of objects"):
        register(folder, {**content, key: [1]})
    assert "own_data" not in DatasetCatalog


@pytest.mark.parametrize("annotations", [1, {}, [1]])
def test_malformed_annotations_are_named(folder, annotations):
    with pytest.raises(ValueError, match="'annotations' in .*must be a list of objects"):
        register(folder, {**make_content(), "annotations": annotations})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_and_byte_order_marks_are_read(folder, encoding):
    content = make_content()
    content["categories"][0]["name"] = "Nuß"
    text = json.dumps(content, ensure_ascii=False)
    (folder / "own.json").write_text(text, encoding=encoding)
    metadata = register_coco_format("own_data", folder / "own.json", folder / "images")
    assert metadata.thing_classes[-1] == "Nuß"
    assert len(DatasetCatalog.get("own_data")) == 2


def test_several_byte_order_marks_are_read(folder):
    register(folder, "\ufeff\ufeff" + json.dumps(make_content()))
    assert len(DatasetCatalog.get("own_data")) == 2


def test_files_in_other_encodings_are_named(folder):
    content = make_content()
    content["categories"][0]["name"] = "Nuß"
    path = folder / "own.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="latin-1")
    with pytest.raises(ValueError, match="own.json is not a text file in UTF-8.*saved as UTF-8"):
        register_coco_format("own_data", path, folder / "images")


def test_a_list_of_results_is_not_a_data_set(folder):
    with pytest.raises(ValueError, match="holds a list.*format of results"):
        register(folder, [])
