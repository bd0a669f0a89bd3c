"""The public panoptic data sets: their classes, and the preparation of tiny downloads."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.cityscapes_panoptic import load_cityscapes_panoptic
from PIL import Image

from vit_adapter.data import class_names, register_panoptic_sets, thing_ids
from vit_adapter.data.image_io import colours_of_ids, read_segment_ids
from vit_adapter.data.panoptic.preparation import prepare
from vit_adapter.data.panoptic.sets.table import SETS
from vit_adapter.data.preparation import run
from vit_adapter.data.semantic.preparation import PreparationError
from vit_adapter.data.semantic.sets import check_prepared


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_ade20k(root: Path) -> None:
    """The classes wall (1), bed (8), window (9), sky (3) and none (0), and instances above them."""
    classes = np.array([[1, 1, 8, 8, 0], [1, 3, 9, 9, 0]], np.uint8)
    # Beds are the first things, windows the second, flags the last (100).
    things = np.array([[0, 1, 1, 1, 100], [0, 0, 2, 0, 0]])
    numbers = np.array([[0, 5, 5, 6, 1], [0, 0, 7, 0, 0]])
    for split in ("training", "validation"):
        folder = root / "ADEChallengeData2016"
        write(folder / f"images/{split}/ADE_1.jpg", np.zeros((2, 5, 3), np.uint8))
        write(folder / f"annotations/{split}/ADE_1.png", classes)
        pixels = np.stack([things, numbers, 0 * things], -1).astype(np.uint8)
        write(folder / f"annotations_instance/{split}/ADE_1.png", pixels)


def write_cityscapes(root: Path) -> None:
    """Road (7), ego vehicle (1), sky (23), cars (26), one of them in a group, a trailer (29)."""
    ids = np.array([[7, 7, 1, 23], [26, 26001, 26001, 26002], [26, 29001, 24000, 7]], np.uint16)
    for split, city in (("train", "aachen"), ("val", "lindau")):
        image = root / f"cityscapes/leftImg8bit/{split}/{city}/{city}_0_1_leftImg8bit.png"
        write(image, np.zeros((3, 4, 3), np.uint8))
        stem = root / f"cityscapes/gtFine/{split}/{city}/{city}_0_1_gtFine"
        write(Path(f"{stem}_instanceIds.png"), ids)
        write(Path(f"{stem}_labelIds.png"), np.where(ids > 999, ids // 1000, ids).astype(np.uint8))


@pytest.fixture
def root(tmp_path: Path):
    register_panoptic_sets(tmp_path)
    yield tmp_path
    register_panoptic_sets()


def test_classes_of_ade20k() -> None:
    for split in ("train", "val"):
        names = class_names(f"ade20k_panoptic_{split}", kind="stuff")
        assert names == class_names(f"ade20k_sem_seg_{split}", kind="stuff")
        things = thing_ids(f"ade20k_panoptic_{split}")
        assert len(things) == len(set(things)) == 100
        # the first and the last three things of the instance challenge, and stuff between them
        found = [names[i].strip() for i in (*things[:3], *things[-3:])]
        assert found == ["bed", "window", "cabinet", "glass, drinking glass", "clock", "flag"]
        stuff = {names[i].strip() for i in range(150) if i not in things}
        assert {"wall", "sky", "tower", "stairway, staircase", "shower", "crt screen"} <= stuff


def test_classes_of_detectron2s_sets() -> None:
    assert thing_ids("coco_2017_val_panoptic") == list(range(80))
    names = class_names("coco_2017_val_panoptic", kind="stuff")
    assert names == [category["name"] for category in COCO_CATEGORIES]
    assert thing_ids("cityscapes_fine_panoptic_val") == list(range(11, 19))
    assert class_names("cityscapes_fine_panoptic_val", kind="stuff")[11] == "person"
    for name, data_set in SETS.items():
        for split in data_set.splits:
            assert MetadataCatalog.get(split.name).preparation == f"prepare_dataset.py {name}"
            if data_set.in_detectron2:
                metadata = MetadataCatalog.get(split.name)
                assert metadata.panoptic_json.endswith(f"/{split.json_file}")
                assert metadata.panoptic_root.endswith(f"/{split.maps}")
                assert metadata.image_root.endswith(f"/{split.sources[0].images}")


def test_ade20k_is_converted(root: Path) -> None:
    write_ade20k(root)
    prepare("ade20k_panoptic", root, allow_subset=True)
    check_prepared("ade20k_panoptic_train")
    (record,) = DatasetCatalog.get("ade20k_panoptic_train")
    folder = root / "ADEChallengeData2016"
    assert record["file_name"] == str(folder / "images/training/ADE_1.jpg")
    assert (record["image_id"], record["height"], record["width"]) == ("ADE_1", 2, 5)
    ids = read_segment_ids(record["pan_seg_file_name"])
    found = {s["category_id"]: [] for s in record["segments_info"]}
    for segment in record["segments_info"]:
        mask = ids == segment["id"]
        assert segment["area"] == mask.sum()
        assert segment["iscrowd"] == 0
        assert segment["isthing"] == (segment["category_id"] in (7, 8, 149))
        found[segment["category_id"]].append(mask.astype(int).tolist())
    assert found == {
        0: [[[1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]],  # the wall, where no bed is above it
        2: [[[0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]],
        7: [[[0, 1, 1, 0, 0], [0] * 5], [[0, 0, 0, 1, 0], [0] * 5]],
        8: [[[0] * 5, [0, 0, 1, 0, 0]]],  # the other pixel of a window belongs to no instance
        149: [[[0, 0, 0, 0, 1], [0] * 5]],
    }
    box = next(s["bbox"] for s in record["segments_info"] if s["category_id"] == 8)
    assert box == [2, 1, 1, 1]


def test_cityscapes_is_converted_like_by_the_official_script(root: Path) -> None:
    write_cityscapes(root)
    prepare("cityscapes_panoptic", root, allow_subset=True)
    folder = root / "cityscapes/gtFine"
    file = folder / "cityscapes_panoptic_val.json"
    metadata = MetadataCatalog.get("cityscapes_fine_panoptic_val")
    (record,) = load_cityscapes_panoptic(
        str(root / "cityscapes/leftImg8bit/val"),
        str(folder / "cityscapes_panoptic_val"),
        str(file),
        metadata.as_dict(),
    )
    assert record["image_id"] == "lindau_0_1"
    map_file = folder / "cityscapes_panoptic_val/lindau_0_1_gtFine_panoptic.png"
    assert record["pan_seg_file_name"] == str(map_file)
    ids = read_segment_ids(record["pan_seg_file_name"])
    assert ids.tolist() == [[7, 7, 0, 23], [26, 26001, 26001, 26002], [26, 0, 24000, 7]]
    found = {s["id"]: (s["category_id"], s["iscrowd"], s["area"]) for s in record["segments_info"]}
    assert found == {
        7: (0, 0, 3),
        23: (10, 0, 1),
        26: (13, 1, 2),
        24000: (11, 0, 1),
        26001: (13, 0, 2),
        26002: (13, 0, 1),
    }
    (image,) = json.loads(file.read_text())["images"]
    assert image["file_name"] == "lindau/lindau_0_1_leftImg8bit.png"


def test_an_interrupted_run_can_be_repeated(root: Path) -> None:
    write_ade20k(root)
    prepare("ade20k_panoptic", root, allow_subset=True, workers=2)
    folder = root / "ADEChallengeData2016"
    train, val = (folder / f"ade20k_panoptic_{split}.json" for split in ("train", "val"))
    before, written = train.stat().st_mtime_ns, val.read_text()
    val.unlink()
    prepare("ade20k_panoptic", root, allow_subset=True)
    assert train.stat().st_mtime_ns == before
    assert val.read_text() == written


def test_broken_instances_are_named(root: Path) -> None:
    write_ade20k(root)
    file = root / "ADEChallengeData2016/annotations_instance/validation/ADE_1.png"
    write(file, np.full((2, 5, 3), 101, np.uint8))
    with pytest.raises(ValueError, match=r"validation/ADE_1.png has instances .* from 1 to 100"):
        prepare("ade20k_panoptic", root, allow_subset=True)
    write(file, np.zeros((2, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"ADE_1.png \(2, 4\) must have the same size"):
        prepare("ade20k_panoptic", root, allow_subset=True)


def test_an_incomplete_download(root: Path) -> None:
    write_ade20k(root)
    with pytest.raises(PreparationError, match="there are 1 images instead of 20,210"):
        prepare("ade20k_panoptic", root)
    (root / "ADEChallengeData2016/annotations_instance/training/ADE_1.png").unlink()
    assert run(["ade20k_panoptic", "--root", str(root), "--allow-subset"]) == 1
    with pytest.raises(PreparationError, match=r"files missing in .*annotations_instance/training"):
        prepare("ade20k_panoptic", root, allow_subset=True)
    with pytest.raises(FileNotFoundError, match=r"_panoptic_val.*prepare_dataset.py ade20k_panopt"):
        check_prepared("ade20k_panoptic_val")


def test_coco_is_only_checked(root: Path) -> None:
    for split in ("train2017", "val2017"):
        write(root / f"coco/{split}/1.jpg", np.zeros((2, 3, 3), np.uint8))
        write(root / f"coco/panoptic_{split}/1.png", colours_of_ids(np.ones((2, 3), int)))
    with pytest.raises(PreparationError, match=r"annotations/panoptic_train2017.json does not ex"):
        prepare("coco_panoptic", root, allow_subset=True)
    for split in ("train", "val"):
        file = root / f"coco/annotations/panoptic_{split}2017.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text("{}")
    assert run(["coco_panoptic", "--root", str(root), "--allow-subset"]) == 0


def test_every_set_is_in_the_help(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        run(["--help"])
    text = capsys.readouterr().out
    for name, data_set in SETS.items():
        assert re.search(rf"{name} +{re.escape(data_set.title)}, panoptic", text)
