"""Panoptic files and folders of segment maps, given to a config as paths."""

import json
import shutil
from pathlib import Path

import pytest
from detectron2.config import LazyCall as L, instantiate
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.evaluation import DatasetEvaluators
from omegaconf import DictConfig, OmegaConf

from vit_adapter.config.data_checks import check_classes, dataset_names
from vit_adapter.config.errors import UsageError
from vit_adapter.config.overrides import apply_overrides
from vit_adapter.config.own_data import apply_custom_data
from vit_adapter.config.tasks import given_category_ids, set_thing_classes
from vit_adapter.data import PanopticMapper, generate_shapes
from vit_adapter.engine.setup import save_config
from vit_adapter.evaluation import build_panoptic_evaluator

KINDS = ("images", "panoptic_json", "panoptic_pngs")
CLASSES = ["circle", "square", "triangle", "speckle", "stripes"]


def build(**options: object) -> dict[str, object]:
    """Stands in for whatever a node of a config instantiates."""
    return options


def loader(split: str) -> DictConfig:
    return L(build)(
        dataset=L(get_detection_dataset_dicts)(
            names=f"coco_2017_{split}_panoptic", filter_empty=False
        ),
        mapper=L(PanopticMapper)(is_train=split == "train", augmentations=[], image_format="RGB"),
    )


def make_config(**data: object) -> DictConfig:
    empty = {f"{split}_{kind}": "" for split in ("train", "val") for kind in KINDS}
    return OmegaConf.create(
        {
            "data": empty | {"check_all": False} | {k: str(v) for k, v in data.items()},
            "dataloader": {
                "train": loader("train"),
                "test": loader("val"),
                "evaluator": L(build_panoptic_evaluator)(
                    dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}"
                ),
            },
            "task": {
                "name": "panoptic",
                "num_classes": "model.num_classes",
                "thing_classes": "model.thing_classes",
            },
            "model": L(build)(num_classes=133, thing_classes=list(range(80))),
            "train": {"output_dir": "out"},
        },
        flags={"allow_objects": True},
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "shapes"
    return generate_shapes(folder, num_train=2, num_val=1, image_size=64, seed=1)


@pytest.fixture
def shapes(source: Path, tmp_path: Path) -> Path:
    """Files that a test may change."""
    return Path(shutil.copytree(source, tmp_path / "shapes"))


def paths(root: Path, *splits: str) -> dict[str, Path]:
    folders = {
        "images": "{}",
        "panoptic_json": "annotations/panoptic_{}.json",
        "panoptic_pngs": "panoptic_{}",
    }
    return {
        f"{split}_{kind}": root / folders[kind].format(split) for split in splits for kind in KINDS
    }


def change_kind(root: Path, split: str, name: str) -> None:
    """Give a category the other value of 'isthing'."""
    file = root / f"annotations/panoptic_{split}.json"
    content = json.loads(file.read_text())
    (category,) = (each for each in content["categories"] if each["name"] == name)
    category["isthing"] = 1 - category["isthing"]
    file.write_text(json.dumps(content))


def test_names_classes_and_things_follow_the_files(shapes: Path) -> None:
    cfg = apply_custom_data(make_config(**paths(shapes, "train", "val")))
    assert dataset_names(cfg, "train") == ["custom_train"]
    assert dataset_names(cfg, "test") == ["custom_val"]
    assert cfg.model.num_classes == 5
    assert cfg.model.thing_classes == [0, 1, 2]
    assert cfg.data.classes == CLASSES
    metadata = MetadataCatalog.get("custom_val")
    assert metadata.stuff_classes == CLASSES
    ids = given_category_ids(cfg)
    assert len(ids) == 2 and all(metadata.get(key) == ids[key] for key in ids)
    check_classes(cfg, training=True)
    records = instantiate(cfg.dataloader.train.dataset)
    assert len(records) == 2
    mapped = instantiate(cfg.dataloader.train.mapper)(records[0])
    assert len(mapped["instances"]) == len(records[0]["segments_info"])
    assert isinstance(instantiate(cfg.dataloader.evaluator), DatasetEvaluators)


def test_a_config_without_these_paths_is_unchanged() -> None:
    cfg = make_config()
    before = OmegaConf.to_yaml(cfg)
    assert OmegaConf.to_yaml(apply_custom_data(cfg)) == before


def test_paths_are_overrides_of_any_config_with_a_panoptic_task(shapes: Path) -> None:
    cfg = make_config()
    given = {f"data.{key}": value for key, value in paths(shapes, "val").items()}
    apply_overrides(cfg, [f"{key}={value}" for key, value in given.items()])
    cfg.dataloader.evaluator = None
    cfg.dataloader.test.dataset.names = "custom_train"  # as saved by a run without evaluation
    apply_custom_data(cfg, training=False)
    assert cfg.dataloader.evaluator._target_ is build_panoptic_evaluator
    assert cfg.dataloader.evaluator.dataset_name == "custom_val"


def test_saved_config_is_evaluated_on_other_data(shapes: Path, tmp_path: Path) -> None:
    cfg = apply_custom_data(make_config(**paths(shapes, "train")))
    assert cfg.dataloader.evaluator is None
    save_config(cfg, str(tmp_path))
    saved = OmegaConf.create(OmegaConf.to_container(cfg), flags={"allow_objects": True})
    for key, value in paths(shapes, "val").items():
        saved.data[key] = str(value)
    apply_custom_data(saved, training=False)
    check_classes(saved, training=False)
    assert saved.model.thing_classes == [0, 1, 2]
    change_kind(shapes, "val", "speckle")
    with pytest.raises(ValueError, match="'isthing' of the classes speckle in the validation data"):
        apply_custom_data(saved, training=False)


def test_isthing_that_differs_between_train_and_val(shapes: Path) -> None:
    change_kind(shapes, "val", "speckle")
    message = (
        r"'isthing' of the categories 4 \('speckle', 0 in 'custom_train'\) differs between "
        r".*panoptic_train.json and .*panoptic_val.json"
    )
    with pytest.raises(ValueError, match=message):
        apply_custom_data(make_config(**paths(shapes, "train", "val")))


def test_one_path_of_three() -> None:
    message = (
        r"data\.train_panoptic_json and data\.train_images are given without "
        r"data\.train_panoptic_pngs; all are needed"
    )
    with pytest.raises(UsageError, match=message):
        apply_custom_data(make_config(train_panoptic_json="a.json", train_images="images"))


def test_broken_data_are_named_before_training(shapes: Path) -> None:
    (shapes / "panoptic_train/000002.png").unlink()
    with pytest.raises(ValueError, match=r"panoptic_train\.json cannot be used.*\n.*000002\.png"):
        apply_custom_data(make_config(**paths(shapes, "train")))


def test_all_maps_are_read_if_wanted(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_adapter.data.panoptic.map_checks._NUM_READ", 0)
    file = shapes / "panoptic_train/000002.png"
    shutil.copy(shapes / "train/000002.png", file)  # any other picture
    cfg = make_config(**paths(shapes, "train"))
    apply_custom_data(cfg)
    cfg.data.check_all = True
    with pytest.raises(ValueError, match=r"does not list.*: 000002\.png"):
        apply_custom_data(cfg)


def test_the_model_must_have_the_things_of_the_data(shapes: Path) -> None:
    cfg = apply_custom_data(make_config(**paths(shapes, "train", "val")))
    set_thing_classes(cfg, [0, 1])
    message = r"things \[0, 1, 2\] .* model\.thing_classes=\[0, 1\]\. Add .*=\[0,1,2\], or"
    with pytest.raises(UsageError, match=message):
        check_classes(cfg, training=True)


@pytest.mark.parametrize("key", [None, "model.num_classes", "model.things"])
def test_things_without_a_key_of_the_model(shapes: Path, key: str | None) -> None:
    cfg = make_config(**paths(shapes, "train"))
    cfg.task.thing_classes = key
    with pytest.raises(UsageError, match=f"task.thing_classes={key!r} must be the key of the"):
        apply_custom_data(cfg)
