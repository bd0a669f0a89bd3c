"""The public data sets: classes, colours, label values, and missing files."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets.builtin_meta import (
    ADE20K_SEM_SEG_CATEGORIES,
    CITYSCAPES_CATEGORIES,
    COCO_CATEGORIES,
)
from PIL import Image

from vit_adapter.data import register_semantic_sets, semantic_dataset_dicts
from vit_adapter.data.checks import class_names
from vit_adapter.data.semantic import sets
from vit_adapter.data.semantic.sets import IGNORE_LABEL, SETS, check_prepared

NUM_CLASSES = {
    "ade20k_sem_seg_train": 150,
    "ade20k_sem_seg_val": 150,
    "cityscapes_fine_sem_seg_train": 19,
    "cityscapes_fine_sem_seg_val": 19,
    "coco_stuff_10k_train": 171,
    "coco_stuff_10k_test": 171,
    "coco_stuff_164k_train": 171,
    "coco_stuff_164k_val": 171,
    "pascal_context_59_train": 59,
    "pascal_context_59_val": 59,
    "mapillary_vistas_sem_seg_train": 65,
    "mapillary_vistas_sem_seg_val": 65,
    "mapillary_vistas_cityscapes_train": 19,
    "mapillary_vistas_cityscapes_val": 19,
}
SPLITS = {split.name: split for data_set in SETS.values() for split in data_set.splits}
IN_DETECTRON2 = [split.name for s in SETS.values() if s.in_detectron2 for split in s.splits]


@pytest.fixture
def root(tmp_path: Path):
    register_semantic_sets(tmp_path)
    yield tmp_path
    register_semantic_sets()


def write_pair(image: Path, labels: Path) -> None:
    for path, mode in ((image, "RGB"), (labels, "L")):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (6, 4)).save(path)


def test_every_definition_is_in_the_table() -> None:
    modules = {path.stem for path in Path(sets.__file__).parent.glob("*.py")}
    assert modules - {"__init__", "catalog", "definition", "label_set", "table"} == set(SETS)


def test_numbers_of_classes() -> None:
    assert {name: len(class_names(name, kind="stuff")) for name in NUM_CLASSES} == NUM_CLASSES


@pytest.mark.parametrize("name", SPLITS)
def test_classes_and_colors(name: str) -> None:
    names = class_names(name, kind="stuff")
    assert tuple(names) == SPLITS[name].label_set.names
    count = len(set(names))
    assert len(names) == len(SPLITS[name].label_set.values) == count
    metadata = MetadataCatalog.get(name)
    colors = np.array(metadata.stuff_colors)
    assert colors.shape == (count, 3) and colors.min() >= 0 and colors.max() <= 255
    assert metadata.ignore_label == IGNORE_LABEL
    assert metadata.evaluator_type in ("sem_seg", "cityscapes_sem_seg")


@pytest.mark.parametrize("name", IN_DETECTRON2)
def test_paths_are_those_of_detectron2(name: str) -> None:
    metadata, split = MetadataCatalog.get(name), SPLITS[name]
    images = Path(metadata.get("image_root") or metadata.image_dir)
    prepared = Path(metadata.get("sem_seg_root") or metadata.gt_dir)
    root = images.parents[len(split.images.parts) - 1]
    assert (root / split.images, root / split.prepared) == (images, prepared)


def test_names_agree_with_detectron2() -> None:
    assert list(SPLITS["ade20k_sem_seg_val"].label_set.names) == ADE20K_SEM_SEG_CATEGORIES
    things = [category for category in COCO_CATEGORIES if category["isthing"]]
    coco_stuff = SPLITS["coco_stuff_10k_train"].label_set
    assert coco_stuff.names[:80] == tuple(category["name"] for category in things)
    # COCO-Stuff keeps COCO's ids for things.
    assert coco_stuff.values[:80] == tuple((category["id"],) for category in things)
    assert coco_stuff.values[80:] == tuple((value,) for value in range(92, 183))
    assert [category["trainId"] for category in CITYSCAPES_CATEGORIES] == list(range(19))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ade20k_sem_seg", {0: 255, 1: 0, 150: 149, 151: 255}),
        ("cityscapes_fine_sem_seg", {0: 255, 7: 0, 9: 255, 11: 2, 33: 18, 255: 255}),
        ("coco_stuff_10k", {0: 255, 1: 0, 11: 10, 12: 255, 13: 11, 91: 255, 92: 80, 182: 170}),
        (
            "coco_stuff_164k",
            {0: 0, 10: 10, 11: 255, 12: 11, 90: 255, 91: 80, 181: 170, 255: 255},
        ),
        ("mapillary_vistas_sem_seg", {0: 0, 64: 64, 65: 255}),
        ("mapillary_vistas_cityscapes", {13: 0, 24: 0, 15: 1, 2: 1, 20: 12, 55: 13, 0: 255}),
    ],
)
def test_values_of_the_official_labels(name: str, expected: dict[int, int]) -> None:
    table = SPLITS[f"{name}_train"].conversion.table
    assert {value: int(table[value]) for value in expected} == expected


def test_pascal_context_is_in_alphabetical_order() -> None:
    split = SPLITS["pascal_context_59_train"]
    labels, table = split.label_set, split.conversion.table
    # Some of the 459 classes, from the official list; 0 is not a class.
    found = {value: labels.names[table[value]] for value in (2, 259, 260, 284, 458)}
    assert found == {2: "aeroplane", 259: "mountain", 260: "mouse", 284: "person", 458: "wood"}
    assert list(labels.names) == sorted(labels.names)
    assert list(labels.values) == sorted(labels.values)
    assert table[0] == table[1] == 255


@pytest.mark.parametrize("name", SPLITS)
def test_missing_folder_names_variable_and_tool(name: str, root: Path, project_root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="DETECTRON2_DATASETS") as error:
        semantic_dataset_dicts(name)
    assert name in str(error.value)
    preparation = MetadataCatalog.get(name).preparation
    assert f"run projects/ViTAdapter/tools/{preparation}, " in str(error.value)
    tool, argument = preparation.split()
    assert (project_root / "projects/ViTAdapter/tools" / tool).is_file()
    assert SPLITS[name] in SETS[argument].splits
    if name not in IN_DETECTRON2:
        assert str(root) in str(error.value)


def test_cityscapes_with_only_official_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "cityscapes_fine_sem_seg_val"
    metadata = Metadata(**{**MetadataCatalog.get(name).as_dict(), "name": name})
    metadata.__dict__.update(image_dir=str(tmp_path / "image"), gt_dir=str(tmp_path / "gt"))
    monkeypatch.setitem(MetadataCatalog.data, name, metadata)
    write_pair(tmp_path / "image/a/x.png", tmp_path / "gt/a/x_labelIds.png")
    with pytest.raises(FileNotFoundError, match=r"labelTrainIds\.png in .*gt\. .*\.py cityscapes,"):
        check_prepared(name)
    (tmp_path / "gt/a/x_labelTrainIds.png").touch()
    check_prepared(name)


def test_images_of_a_folder(root: Path) -> None:
    metadata = MetadataCatalog.get("coco_stuff_164k_val")
    for name in ("b", "a"):
        image, labels = Path(metadata.image_root), Path(metadata.sem_seg_root)
        write_pair(image / f"{name}.jpg", labels / f"{name}.png")
    records = semantic_dataset_dicts(["coco_stuff_164k_val"])
    assert [Path(record["file_name"]).name for record in records] == ["a.jpg", "b.jpg"]
    assert [Path(record["sem_seg_file_name"]).name for record in records] == ["a.png", "b.png"]


def test_images_of_a_list(root: Path) -> None:
    folder = root / "coco_stuff_10k"
    for name in ("a", "b", "c"):
        write_pair(folder / f"images/{name}.jpg", folder / f"annotations_detectron2/{name}.png")
    with pytest.raises(FileNotFoundError, match=r"imageLists.*prepare_dataset\.py coco_stuff_10k"):
        DatasetCatalog.get("coco_stuff_10k_train")
    (folder / "imageLists").mkdir()
    (folder / "imageLists/train.txt").write_text("c\na\n")
    records = DatasetCatalog.get("coco_stuff_10k_train")
    assert [Path(record["file_name"]).stem for record in records] == ["a", "c"]
    (folder / "imageLists/train.txt").write_text("c\nd\n")
    expected = r"1 of 2 images are missing in .*images: d\..*prepare_dataset"
    with pytest.raises(ValueError, match=expected):
        DatasetCatalog.get("coco_stuff_10k_train")


def test_records_of_several_data_sets_are_joined(registered_shapes: Path) -> None:
    both = semantic_dataset_dicts(["shapes_train_sem_seg", "shapes_val_sem_seg"])
    assert len(both) == 10 and {"file_name", "sem_seg_file_name"} <= set(both[0])


def test_other_names() -> None:
    check_prepared("shapes_val_sem_seg")  # it is written when it is used
    with pytest.raises(ValueError, match="coco_stuff_10k_train"):
        check_prepared("coco_stuf_10k_train")


def test_importing_needs_no_data_and_respects_the_variable(tmp_path: Path) -> None:
    code = (
        "from detectron2.data import MetadataCatalog as M; import vit_adapter.data;"
        "print(M.get('mapillary_vistas_sem_seg_train').image_root)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"DETECTRON2_DATASETS": str(tmp_path / "absent"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(tmp_path / "absent/mapillary_vistas/training/images")
    assert not (tmp_path / "absent").exists()


def test_listed_names_are_the_lines(tmp_path: Path) -> None:
    names_file = tmp_path / "train.txt"
    names_file.write_text("b 1\r\n\n a/2 \n")
    split = replace(SPLITS["coco_stuff_10k_train"], names_file=names_file)
    assert split.listed_names() == ["b 1", "a/2"]
