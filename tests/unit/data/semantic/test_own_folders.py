"""Custom semantic labels: two folders and the names of the classes."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from vit_adapter.data.semantic.own_folders import (
    NUM_CHECKED,
    default_colors,
    read_class_names,
    register_label_folders,
)

NAME = "semantic_folders_test"


@pytest.fixture
def folders(tmp_path: Path):
    """Twenty pairs of files; one pixel of each label map has its number modulo 2."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for i in range(20):
        Image.new("RGB", (5, 4)).save(tmp_path / f"images/{i:02}.jpg")
        labels = np.full((4, 5), 255, np.uint8)
        labels[0, 0] = i % 2
        Image.fromarray(labels).save(tmp_path / f"labels/{i:02}.png")
    yield tmp_path / "images", tmp_path / "labels"
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)
    MetadataCatalog.pop(NAME, None)


def test_registered_as_detectron2_expects(folders: tuple[Path, Path]) -> None:
    metadata = register_label_folders(NAME, *folders, ["road", "sky"])
    assert metadata is MetadataCatalog.get(NAME)
    assert (metadata.stuff_classes, metadata.ignore_label) == (["road", "sky"], 255)
    assert metadata.evaluator_type == "sem_seg" and len(set(metadata.stuff_colors)) == 2
    assert metadata.sem_seg_root == str(folders[1])
    records = DatasetCatalog.get(NAME)
    assert len(records) == 20
    assert records[3] == {
        "file_name": str(folders[0] / "03.jpg"),
        "sem_seg_file_name": str(folders[1] / "03.png"),
    }
    records[3].clear()  # callers may change the result
    assert DatasetCatalog.get(NAME)[3]


def test_some_files_or_all_are_checked(folders: tuple[Path, Path]) -> None:
    last = folders[1] / "19.png"
    Image.fromarray(np.full((4, 5), 7, np.uint8)).save(last)
    assert NUM_CHECKED < 20
    with pytest.raises(ValueError, match=r"19\.png has the values 7 in 20 pixels"):
        register_label_folders(NAME, *folders, ["road", "sky"], check_all=True)
    assert NAME not in DatasetCatalog
    register_label_folders(NAME, *folders, ["road", "sky"])


def test_labels_of_more_classes_than_named(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=r"01\.png has the values 1 .* 1 classes"):
        register_label_folders(NAME, *folders, ["road"])


@pytest.mark.parametrize(
    "content", [["sky", "pole"], {"classes": ["sky", "pole"], "ignore_label": 255}]
)
def test_class_files(tmp_path: Path, content: object) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(content))
    assert read_class_names(path) == read_class_names(str(path)) == ["sky", "pole"]
    assert read_class_names(("sky", "pole")) == ["sky", "pole"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_class_files_of_windows(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text('["Straße", "sky"]', encoding=encoding)
    assert read_class_names(path) == ["Straße", "sky"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a JSON file of classes"),
        ('"sky"', r"must hold a list of names, or \{"),
        ('{"names": ["sky"]}', "must hold a list of names"),
        ("[]", r"must hold the names .* as strings, got \[\]"),
        ('["sky", 3]', r"as strings, got \['sky', 3\]"),
        ('["sky", ""]', "as strings"),
        ('["sky", "pole", "sky"]', "has the names sky more than once"),
        ('{"classes": ["sky"], "ignore_label": 0}', "ignore_label 0, but .* the label 255"),
        (json.dumps([str(i) for i in range(256)]), "256 classes, but at most 255"),
    ],
)
def test_broken_class_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"classes\.json.*{message}|{message}"):
        read_class_names(path)


def test_missing_class_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"classes\.json does not exist"):
        read_class_names(tmp_path / "classes.json")


def test_colors_differ_and_are_always_the_same() -> None:
    assert len(set(default_colors(60))) == 60 and default_colors(60)[:3] == default_colors(3)
    assert len(default_colors(255)) == 255
    assert {type(value) for color in default_colors(3) for value in color} == {int}
