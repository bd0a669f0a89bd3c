"""Data sets with one defect each: what a dry run says of them."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from vit_adapter.data import register_coco_format
from vit_adapter.data.catalog import register, unregister
from vit_adapter.data.semantic.own_folders import register_label_folders
from vit_adapter.engine.dry_run.data_health import check_data
from vit_adapter.engine.dry_run.report import Report, collect_warnings

Records = list[dict[str, Any]]


def save_image(path: Path, value: int, size: tuple[int, int] = (40, 30)) -> str:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return str(path)


def box(*xywh: float, category: int = 0, crowd: int = 0) -> dict[str, Any]:
    x, y, width, height = xywh
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    return dict(
        bbox=list(xywh), bbox_mode=1, category_id=category, iscrowd=crowd, segmentation=[polygon]
    )


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """Two images with an object each; the first also has a crowd."""
    common = dict(height=30, width=40)
    return [
        dict(
            file_name=save_image(tmp_path / "train/a.png", 10),
            image_id=1,
            annotations=[box(2, 2, 10, 10), box(0, 0, 30, 20, category=1)],
            **common,
        ),
        dict(
            file_name=save_image(tmp_path / "train/b.png", 20),
            image_id=2,
            annotations=[box(1, 1, 39, 28, category=1)],
            **common,
        ),
    ]


@pytest.fixture
def check() -> Iterator[Callable[..., tuple[Report, dict[str, Any]]]]:
    """Registers records as training data, and others as validation data; checks both."""

    def run(
        train: Records, val: Records | None = None, image_format: str | int = "RGB"
    ) -> tuple[Report, dict[str, Any]]:
        classes = dict(thing_classes=["cat", "dog"], evaluator_type="coco")
        register("dry_train", lambda: train, **classes)
        register("dry_val", lambda: val, **classes)
        return run_check("instances", evaluated=val is not None, image_format=image_format)

    yield run
    unregister("dry_train")
    unregister("dry_val")


def run_check(
    task: str, *, evaluated: bool, image_format: str | int = "RGB"
) -> tuple[Report, dict[str, Any]]:
    """Returns the report and what its file holds."""
    cfg = OmegaConf.create(
        {
            "task": {"name": task},
            "dataloader": {
                "train": {"dataset": {"names": "dry_train"}},
                "test": {
                    "dataset": {"names": "dry_val"},
                    "mapper": {"image_format": image_format},
                },
                "evaluator": {} if evaluated else None,
            },
        }
    )
    report = Report()
    with collect_warnings(report):
        check_data(cfg, report)
    return report, report.content().get("data", {})


def test_healthy_data(check, records: Records, tmp_path: Path, capsys) -> None:
    val = [{**records[0], "file_name": save_image(tmp_path / "val/c.png", 30)}]
    report, data = check(records, val)
    assert report.problems == report.warnings == []
    train = data["train"]["dry_train"]
    assert (train["images"], train["decoded"], train["objects"]) == (2, 2, 3)
    assert train["classes"] == {"cat": 1, "dog": 2}
    assert train["object_sizes"] == {"small": 2, "medium": 1, "large": 0}
    assert train["image_sizes"]["largest"] == [30, 40]
    assert data["val"]["dry_val"]["classes"] == {"cat": 1, "dog": 1}
    assert "dog 2, cat 1" in capsys.readouterr().out


def test_images_of_more_channels_than_rows(check, records: Records, tmp_path: Path) -> None:
    for name, record in zip("ab", records, strict=True):
        record["file_name"] = str(tmp_path / f"{name}.npy")
        np.save(record["file_name"], np.zeros((30, 40, 50)))
    assert check(records, image_format=50)[0].problems == []


def truncate(records: Records) -> None:
    path = Path(records[1]["file_name"])
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:1000])  # the header is intact


DEFECTS = {
    "truncated": (truncate, "b.png cannot be read"),
    "missing": (lambda records: os.remove(records[1]["file_name"]), "image file missing"),
    "another size": (lambda records: records[1].update(height=31), "b.png (30 and 40, not 31"),
    "id twice": (lambda records: records[1].update(image_id=1), "image id that occurs more than"),
    "file twice": (
        lambda records: records[1].update(file_name=records[0]["file_name"]),
        "image file in several records",
    ),
    "box outside": (
        lambda records: records[1]["annotations"].append(box(50, 5, 10, 10)),
        "'bbox' lies outside the image",
    ),
    "unknown class": (
        lambda records: records[1]["annotations"].append(box(5, 5, 10, 10, category=2)),
        "category that 'categories' does not list ([0, 1])",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_problems(check, records: Records, defect: str) -> None:
    change, message = DEFECTS[defect]
    change(records)
    report, _ = check(records)
    (problem, *_) = report.problems
    assert problem.startswith("dry_train: 1 x ") and message in problem


ODDITIES = {
    "class without objects": (
        lambda records: records[0]["annotations"].pop(0),
        "1 of 2 classes do not occur in the data set: cat",
    ),
    "box without area": (
        lambda records: records[0]["annotations"].append(box(5, 5, 0, 10)),
        "1 of 4 boxes in dry_train have no area",
    ),
    "box beyond the image": (
        lambda records: records[0]["annotations"].append(box(20, 5, 30, 10)),
        "1 of 4 boxes in dry_train reach beyond their image",
    ),
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_oddities_are_warnings(check, records: Records, oddity: str) -> None:
    change, message = ODDITIES[oddity]
    change(records)
    report, _ = check(records)
    assert report.is_ready
    assert any(message in warning for warning in report.warnings)


def test_counts_images_without_objects_and_what_is_left_out(check, records: Records) -> None:
    records[1]["annotations"] = [box(1, 1, 10, 10, crowd=1)]
    records[0]["annotations"].append(box(5, 5, 0, 10))
    _, data = check(records)
    train = data["train"]["dry_train"]
    assert (train["images_without_objects"], train["crowds"]) == (1, 1)
    assert (train["boxes_without_area"], train["objects"]) == (1, 2)


def test_training_images_in_the_validation_data(check, records: Records, tmp_path: Path) -> None:
    os.makedirs(tmp_path / "val")
    copy = shutil.copy(records[1]["file_name"], tmp_path / "val/other_name.png")
    report, _ = check(records, [{**records[1], "file_name": str(copy)}])
    assert any("1 of 1 validation images are training images too" in w for w in report.warnings)


def test_data_without_images(check) -> None:
    report, data = check([])
    assert report.problems == ["dry_train: the data set has no images."]
    assert data == {}


def test_own_data_are_not_checked_twice(tmp_path: Path, records: Records) -> None:
    content = {
        "images": [dict(id=1, file_name="a.png", height=30, width=40)],
        "annotations": [
            dict(id=1, image_id=1, category_id=1, bbox=[2, 2, 0, 5], iscrowd=0, area=0),
            dict(id=2, image_id=1, category_id=1, bbox=[2, 2, 5, 5], iscrowd=0, area=25),
        ],
        "categories": [dict(id=1, name="cat")],
    }
    (tmp_path / "own.json").write_text(json.dumps(content))
    report = Report()
    with collect_warnings(report):
        register_coco_format("dry_train", tmp_path / "own.json", tmp_path / "train")
        cfg = {"dataloader": {"train": {"dataset": {"names": "dry_train"}}, "evaluator": None}}
        check_data(OmegaConf.create({**cfg, "task": {"name": "instances"}}), report)
    unregister("dry_train")
    assert len([w for w in report.warnings if "have no area" in w]) == 1


def test_semantic_labels(tmp_path: Path) -> None:
    for name, value in (("a", 0), ("b", 1), ("c", 1)):
        save_image(tmp_path / f"images/{name}.png", 50)
        (tmp_path / "labels").mkdir(exist_ok=True)
        Image.new("L", (40, 30), value).save(tmp_path / f"labels/{name}.png")
    folders = tmp_path / "images", tmp_path / "labels"
    register_label_folders("dry_train", *folders, ["road", "sky", "tree"])
    Image.new("L", (40, 30), 3).save(tmp_path / "labels/c.png")
    try:
        report, data = run_check("semantic", evaluated=False)
    finally:
        unregister("dry_train")
    (problem,) = report.problems
    assert "c.png has the values 3 in 1200 pixels" in problem
    assert data["train"]["dry_train"]["classes"] == {"road": 1, "sky": 1, "tree": 0}
    assert any("1 of 3 classes do not occur in the 3 images: tree" in w for w in report.warnings)


def test_panoptic_segments(tmp_path: Path, records: Records) -> None:
    segments = [dict(id=1, category_id=0, isthing=True), dict(id=2, category_id=1, isthing=False)]
    ids = np.ones((30, 40, 3), np.uint8) * [1, 0, 0]
    ids[:, :5, 0] = 2
    Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "map.png")
    record = {
        **{key: value for key, value in records[0].items() if key != "annotations"},
        "pan_seg_file_name": str(tmp_path / "map.png"),
        "segments_info": segments,
    }
    classes = ["cat", "sky"]
    register("dry_train", lambda: [record], thing_classes=classes, stuff_classes=classes)
    try:
        report, data = run_check("panoptic", evaluated=False)
        assert report.problems == []
        train = data["train"]["dry_train"]
        assert (train["segments"], train["things"]) == (2, 1)
        assert train["classes"] == {"cat": 1, "sky": 1}
        del segments[1]
        report, _ = run_check("panoptic", evaluated=False)
        assert "segment map with an id that its 'segments_info' does not list" in report.problems[0]
    finally:
        unregister("dry_train")
