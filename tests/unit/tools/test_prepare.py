"""``prepare_dataset.py`` on tiny downloads with the official layout."""

import importlib.util
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg
from detectron2.data.datasets.cityscapes import load_cityscapes_semantic
from downloads import (
    DOWNLOADS,
    LABELS,
    ade20k,
    coco_stuff_10k,
    mapillary,
    pascal_context,
    write_image,
    write_labels,
    write_list,
)
from PIL import Image

from vit_adapter.data import register_semantic_sets
from vit_adapter.data.preparation import run
from vit_adapter.data.semantic.preparation import PreparationError, prepare
from vit_adapter.data.semantic.sets import SETS, Split, read_label_set

_X = 255
# Taken by hand from the official class lists, for LABELS as each download stores them.
EXPECTED = {
    "ade20k": [[_X, 0, 1, 2], [29, 30, 31, 32], [11, 12, 23, 24]],
    "cityscapes": [[_X, _X, _X, _X], [_X, 16, 17, 18], [3, 4, 11, 12]],
    # COCO has no ids 12, 26, 29 and 30 below 34.
    "coco_stuff_10k": [[_X, 0, 1, 2], [_X, 26, 27, 28], [_X, 11, 22, 23]],
    "coco_stuff_164k": [[0, 1, 2, 3], [26, 27, 28, 29], [11, 12, 23, _X]],
    # Classes 2, 31, 33, 25 of 459 are aeroplane, boat, book and bird; 458 is wood.
    "pascal_context": [[58, _X, 0, _X], [_X, 7, _X, 8], [_X, _X, _X, 6]],
    "mapillary": [[32, 33, 34, 35], [62, 63, 64, _X], [44, 45, 56, 57]],
}
SPLITS = {
    "coco_stuff_10k": ("coco_stuff_10k_train", "coco_stuff_10k_test"),
    "coco_stuff_164k": ("coco_stuff_164k_train", "coco_stuff_164k_val"),
    "pascal_context": ("pascal_context_59_train", "pascal_context_59_val"),
    "mapillary": ("mapillary_vistas_sem_seg_train", "mapillary_vistas_sem_seg_val"),
}


@pytest.fixture(params=SETS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def below(name: str, root: Path) -> list[Split]:
    return [split.below(root) for split in SETS[name].splits]


def generate(name: str, root: Path) -> dict[str, Path]:
    """Write a label file with all official values for each split of a data set.

    Returns:
        Registered name -> path of its prepared labels.
    """
    prepared = {}
    for split in below(name, root):
        file = "x" if split.names_file is None else split.name
        write_image(split.images / f"{file}{split.image_suffix}")
        values = np.array([sorted(split.conversion.valid)] * 2)
        dtype = np.uint8 if values.max() < 256 else np.uint16
        official = split.official / f"{file}{split.official_suffix}"
        write_labels(official, values.astype(dtype), key=split.conversion.mat_key)
        if split.names_file is not None:
            write_list(split.names_file, file)
        prepared[split.name] = split.prepared / f"{file}{split.prepared_suffix}"
    return prepared


def download(name: str, root: Path) -> None:
    DOWNLOADS.get(name, partial(generate, name))(root)


@pytest.fixture
def root(tmp_path: Path):
    register_semantic_sets(tmp_path)
    yield tmp_path
    register_semantic_sets()


def load(name: str, root: Path) -> list[dict[str, str]]:
    """The records of both splits, from the loaders that training uses."""
    if name == "ade20k":
        folder = root / "ADEChallengeData2016"
        return [
            record
            for split in ("training", "validation")
            for record in load_sem_seg(
                str(folder / "annotations_detectron2" / split), str(folder / "images" / split)
            )
        ]
    if name == "cityscapes":
        folder = root / "cityscapes"
        return [
            record
            for split in ("train", "val")
            for record in load_cityscapes_semantic(
                f"{folder}/leftImg8bit/{split}", f"{folder}/gtFine/{split}"
            )
        ]
    return [record for split in SPLITS[name] for record in DatasetCatalog.get(split)]


def arguments(name: str, root: Path) -> list[str]:
    return [name, "--root", str(root), "--allow-subset", "--workers", "1"]


@pytest.mark.parametrize("name", DOWNLOADS)
def test_prepared_data_can_be_loaded(name: str, root: Path) -> None:
    DOWNLOADS[name](root)
    assert run(arguments(name, root)) == 0
    records = load(name, root)
    assert len(records) == 2
    for record in records:
        with Image.open(record["sem_seg_file_name"]) as picture:
            assert picture.mode == "L"
            assert np.asarray(picture).tolist() == EXPECTED[name]
    assert not list(root.rglob("*.incomplete"))


def test_prepared_names_are_the_registered_ones(name: str, root: Path) -> None:
    prepared = generate(name, root)
    prepare(name, root, allow_subset=True)
    for split in below(name, root):
        valid = sorted(split.conversion.valid)
        found = np.asarray(Image.open(prepared[split.name]))
        assert found.tolist() == [split.conversion.table[valid].tolist()] * 2
        assert set(found.ravel()) - {_X} == set(range(len(split.label_set.names)))
        if not SETS[name].in_detectron2:
            (record,) = DatasetCatalog.get(split.name)
            assert record["sem_seg_file_name"] == str(prepared[split.name])


def test_mapillary_with_the_classes_of_cityscapes(root: Path) -> None:
    mapillary(root)
    prepare("mapillary", root, allow_subset=True)
    (record,) = DatasetCatalog.get("mapillary_vistas_cityscapes_train")
    names = [*MetadataCatalog.get("mapillary_vistas_cityscapes_train").stuff_classes]
    found = np.asarray(Image.open(record["sem_seg_file_name"]))
    names = [[names[label] if label != 255 else "-" for label in row] for row in found]
    # Stored: 32 33 34 35, 62 63 64 65, 44 45 56 57.
    assert names == [["-"] * 4, ["-"] * 4, ["-", "pole", "-", "motorcycle"]]


def test_labels_of_release_1_inside_release_2_of_mapillary(root: Path) -> None:
    for split in ("training", "validation"):
        write_image(root / f"mapillary_vistas/{split}/images/x.jpg")
        write_labels(root / f"mapillary_vistas/{split}/v1.2/labels/x.png")
        write_labels(root / f"mapillary_vistas/{split}/v2.0/labels/x.png", LABELS + 90)
    prepare("mapillary", root, allow_subset=True)
    assert len(load("mapillary", root)) == 2


def test_several_processes_write_the_same(root: Path) -> None:
    folder = root / "ADEChallengeData2016"
    for i in range(40):
        write_image(folder / f"images/training/{i}.jpg")
        write_labels(folder / f"annotations/training/{i}.png", np.roll(LABELS, i))
    write_image(folder / "images/validation/0.jpg")
    write_labels(folder / "annotations/validation/0.png")
    prepare("ade20k", root, allow_subset=True, workers=2)
    table = read_label_set("ade20k").lookup_table(256)
    for i in range(40):
        found = np.asarray(Image.open(folder / f"annotations_detectron2/training/{i}.png"))
        assert np.array_equal(found, table[np.roll(LABELS, i)])


def test_missing_download(name: str, root: Path) -> None:
    assert run([name, "--root", str(root)]) == 1
    with pytest.raises(PreparationError) as error:
        prepare(name, root)
    text = str(error.value)
    assert SETS[name].title in text and SETS[name].layout in text
    for split in below(name, root):
        assert f"{split.images} does not exist; it comes with {split.image_origin}" in text
        assert f"{split.official} does not exist; it comes with {split.label_origin}" in text
        assert re.search(r"https?://", split.image_origin + split.label_origin)


def test_incomplete_download_is_counted(name: str, root: Path) -> None:
    download(name, root)
    with pytest.raises(PreparationError) as error:
        prepare(name, root)
    for split in SETS[name].splits:
        assert f"there are 1 images instead of {split.count:,}" in str(error.value)
    assert len(list(root.rglob("*_detectron2"))) == 0  # nothing was started


def test_missing_files_are_named(name: str, root: Path) -> None:
    download(name, root)
    split = below(name, root)[0]
    labels = min(split.official.rglob(f"*{split.official_suffix}"))
    labels.rename(labels.with_suffix(".bak"))
    with pytest.raises(
        PreparationError, match=rf"label files missing in .*\(1\): .*{labels.name}; get "
    ):
        prepare(name, root, allow_subset=True)


def test_missing_image_of_a_list_is_named(root: Path) -> None:
    pascal_context(root)
    write_list(root / "VOCdevkit/VOC2010/ImageSets/Main/train.txt", "2008_1", "2008_9")
    expected = r"train: images missing in .*\(1\): 2008_9\.jpg; get VOC"
    with pytest.raises(PreparationError, match=expected):
        prepare("pascal_context", root, allow_subset=True)
    (root / "VOCdevkit/VOC2010/ImageSets/Main/train.txt").unlink()
    with pytest.raises(PreparationError, match=r"the list .*train\.txt does not exist; .* VOC"):
        prepare("pascal_context", root, allow_subset=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ade20k", 151),
        ("cityscapes", 34),
        ("coco_stuff_10k", 183),
        ("coco_stuff_164k", 182),
        ("mapillary", 66),
    ],
)
def test_values_that_no_official_file_has(name: str, value: int, root: Path) -> None:
    DOWNLOADS[name](root)
    split = below(name, root)[0]
    path = min(split.official.rglob(f"*{split.official_suffix}"))
    write_labels(path, np.full((3, 4), value, np.uint8), key="S" if path.suffix == ".mat" else None)
    with pytest.raises(ValueError, match=rf"{path.name} has the values \[{value}\]"):
        prepare(name, root, allow_subset=True)


def test_interrupted_run_continues(root: Path) -> None:
    folder = root / "ADEChallengeData2016"
    ade20k(root)
    write_image(folder / "images/training/ADE_2.jpg")
    broken = folder / "annotations/training/ADE_2.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"ADE_2\.png cannot be read"):
        prepare("ade20k", root, allow_subset=True)
    done = folder / "annotations_detectron2/training/ADE_1.png"
    assert done.is_file() and not list(root.rglob("*.incomplete"))
    stamp = done.stat().st_mtime_ns
    write_labels(broken)
    prepare("ade20k", root, allow_subset=True)
    assert done.stat().st_mtime_ns == stamp  # not written again
    assert (done.with_name("ADE_2.png")).is_file()


def test_program(root: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco_stuff_10k(root)
    path = project_root / "projects/ViTAdapter/tools/prepare_dataset.py"
    monkeypatch.setattr(sys, "argv", [str(path), *arguments("coco_stuff_10k", root)])
    with pytest.raises(SystemExit) as end:
        spec = importlib.util.spec_from_file_location("__main__", path)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert end.value.code == 0
    assert len(load("coco_stuff_10k", root)) == 2


def test_help_describes_every_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--help"])
    text = capsys.readouterr().out
    for name, data_set in SETS.items():
        assert re.search(rf"^  {name} +{re.escape(data_set.title)}\n +", text, re.MULTILINE)
        assert data_set.layout in text


def test_unknown_data_set_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["ade"])
    assert "invalid choice: 'ade' (choose from 'ade20k', 'cityscapes'" in capsys.readouterr().err
