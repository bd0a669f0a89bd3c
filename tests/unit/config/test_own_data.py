"""Custom data sets with annotations in COCO's format, given to a config as paths."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyCall as L, LazyConfig, instantiate
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from vit_adapter.config.data_checks import check_classes, dataset_names
from vit_adapter.config.errors import UsageError
from vit_adapter.config.overrides import apply_overrides
from vit_adapter.config.own_data import apply_custom_data, register_test_data
from vit_adapter.config.tasks import given_classes, set_num_classes
from vit_adapter.engine.setup import save_config

POLYGON = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]
RUN_LENGTHS = {"size": [16, 16], "counts": [17, 3, 236]}


def build(**options: object) -> dict[str, object]:
    """Stands in for whatever a node of a config instantiates."""
    return options


def write_data(folder: Path, classes: list[str], segmentation: object = POLYGON) -> Path:
    images = folder / "images"
    images.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(images / "a.png")
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [1, 1, 8, 8],
        "area": 32,
        "iscrowd": 0,
        "segmentation": segmentation,
    }
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 16, "width": 16}],
        "annotations": [annotation],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, start=1)],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


def make_config(**data: Path | str) -> DictConfig:
    names = L(get_detection_dataset_dicts)(names="coco_2017_val")
    mapper = L(DatasetMapper)(
        is_train=True,
        augmentations=[],
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="polygon",
    )
    return OmegaConf.create(
        {
            "data": {key: str(value) for key, value in data.items()},
            "dataloader": {
                "train": L(build)(dataset=names, mapper=mapper),
                "test": L(build)(dataset=copy.deepcopy(names)),
                "evaluator": L(build)(dataset_name="${..test.dataset.names}"),
            },
            "task": {"name": "instances", "num_classes": "model.num_classes"},
            "model": L(build)(
                num_classes=80,
                head=L(build)(num_classes="${..num_classes}"),
                semantic_head=L(build)(num_classes=183),
            ),
        },
        flags={"allow_objects": True},
    )


def paths(split: str, folder: Path) -> dict[str, Path]:
    return {f"{split}_json": folder / "labels.json", f"{split}_images": folder / "images"}


def test_config_without_custom_data_is_unchanged() -> None:
    cfg = make_config(train_json="", train_images="", val_json="", val_images="")
    before = OmegaConf.to_yaml(cfg)
    assert OmegaConf.to_yaml(apply_custom_data(cfg)) == before
    del cfg.data
    apply_custom_data(cfg)


def test_names_and_class_counts_follow_the_files(tmp_path: Path) -> None:
    train = write_data(tmp_path / "train", ["cell", "gap"])
    val = write_data(tmp_path / "val", ["cell", "gap"])
    cfg = apply_custom_data(make_config(**paths("train", train), **paths("val", val)))
    assert dataset_names(cfg, "train") == ["custom_train"]
    assert dataset_names(cfg, "test") == ["custom_val"]
    assert cfg.dataloader.evaluator.dataset_name == "custom_val"
    assert cfg.model.num_classes == cfg.model.head.num_classes == 2
    assert cfg.model.semantic_head.num_classes == 183  # a different set of labels
    assert cfg.dataloader.train.mapper.instance_mask_format == "polygon"
    assert cfg.data.classes == ["cell", "gap"]
    assert cfg.data.category_ids == [1, 2]
    check_classes(cfg, training=True)
    assert len(DatasetCatalog.get("custom_val")) == 1
    assert MetadataCatalog.get("custom_val").json_file == str(val / "labels.json")


def test_class_names_with_a_special_meaning_in_a_config(tmp_path: Path) -> None:
    names = ["???", "${price", "${model.num_classes}", "${oc.env:HOME}", "\\${x}", "null", " "]
    cfg = apply_custom_data(make_config(**paths("train", write_data(tmp_path / "train", names))))
    assert cfg.model.num_classes == len(names)
    save_config(cfg, str(tmp_path))
    saved = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert given_classes(saved) == names
    assert given_classes(apply_custom_data(saved)) == names


def test_other_files_replace_earlier_ones(tmp_path: Path) -> None:
    for index, classes in enumerate((["a"], ["a", "b"])):
        folder = write_data(tmp_path / str(index), classes)
        cfg = apply_custom_data(make_config(**paths("val", folder)))
        assert cfg.model.num_classes == len(classes)


def test_run_length_masks_are_read_as_bitmaps(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "train", ["cell"], segmentation=RUN_LENGTHS)
    cfg = apply_custom_data(make_config(**paths("train", folder)))
    assert cfg.dataloader.train.mapper.instance_mask_format == "bitmask"


@pytest.mark.parametrize("shape", [(16, 20, 40), (40, 16, 20)])
def test_images_of_more_channels_than_rows(tmp_path: Path, shape: tuple[int, ...]) -> None:
    folder = write_data(tmp_path / "train", ["cell"])
    np.save(folder / "images/a.npy", np.zeros(shape))
    content = json.loads((folder / "labels.json").read_text())
    content["images"][0].update(file_name="a.npy", width=20)
    (folder / "labels.json").write_text(json.dumps(content))
    cfg = make_config(**paths("train", folder))
    cfg.dataloader.test.mapper = {"image_format": 40}
    apply_custom_data(cfg)
    cfg.dataloader.test.mapper.image_format = "RGB"
    with pytest.raises(ValueError, match="image file whose size"):
        apply_custom_data(cfg)


def test_only_training_data_means_no_evaluation_on_other_data(tmp_path: Path) -> None:
    cfg = make_config(**paths("train", write_data(tmp_path / "train", ["cell"])))
    apply_custom_data(cfg)
    assert cfg.dataloader.evaluator is None
    assert dataset_names(cfg, "test") == ["custom_train"]


def test_validation_data_can_be_added_to_the_config_of_a_run_without_them(tmp_path: Path) -> None:
    train, val = (write_data(tmp_path / split, ["cell"]) for split in ("train", "val"))
    cfg = make_config(**paths("train", train))
    cfg.train = {"output_dir": str(tmp_path / "run")}
    LazyConfig.save(apply_custom_data(cfg), str(tmp_path / "config.yaml"))
    saved = LazyConfig.load(str(tmp_path / "config.yaml"))
    saved.data.update({key: str(path) for key, path in paths("val", val).items()})
    evaluator = instantiate(apply_custom_data(saved).dataloader.evaluator)
    assert isinstance(evaluator, COCOEvaluator)
    assert (evaluator._metadata.name, evaluator._output_dir) == (
        "custom_val",
        str(tmp_path / "run/inference"),
    )


def test_no_evaluator_on_purpose(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "data", ["cell"])
    cfg = make_config(**paths("train", folder), **paths("val", folder))
    cfg.dataloader.evaluator = None
    for _ in ("first", "from the saved config"):
        assert apply_custom_data(cfg).dataloader.evaluator is None


def test_evaluation_needs_no_training_data(tmp_path: Path) -> None:
    train, val = (write_data(tmp_path / split, ["cell"]) for split in ("train", "val"))
    cfg = apply_custom_data(make_config(**paths("train", train), **paths("val", val)))
    for catalog in (DatasetCatalog, MetadataCatalog):  # as in another process
        catalog.remove("custom_train")
    train.rename(tmp_path / "elsewhere")
    apply_custom_data(cfg, training=False)
    check_classes(cfg, training=False)
    assert dataset_names(cfg, "test") == register_test_data(cfg) == ["custom_val"]
    assert cfg.dataloader.evaluator.dataset_name == "custom_val"
    with pytest.raises(FileNotFoundError, match="train"):
        apply_custom_data(cfg)


def test_evaluation_without_validation_data_reads_nothing(tmp_path: Path) -> None:
    cfg = apply_custom_data(make_config(**paths("train", tmp_path / "gone")), training=False)
    check_classes(cfg, training=False)
    assert cfg.dataloader.evaluator is None  # evaluation refuses this


def test_evaluation_on_the_classes_of_another_training(tmp_path: Path) -> None:
    cfg = make_config(**paths("val", write_data(tmp_path, ["gap", "cell"])))
    cfg.data.classes = ["cell", "gap"]
    with pytest.raises(ValueError, match=r"classes gap, cell, .* a training run with cell, gap\."):
        apply_custom_data(cfg, training=False)


def test_test_data_are_the_training_data_of_a_run_without_validation(tmp_path: Path) -> None:
    cfg = make_config(**paths("train", write_data(tmp_path, ["cell"])))
    assert register_test_data(cfg) == ["custom_train"]
    assert len(DatasetCatalog.get("custom_train")) == 1


def test_labels_of_another_task(tmp_path: Path) -> None:
    train = write_data(tmp_path / "train", ["cell"])
    for more in ({}, paths("train", train)):
        cfg = make_config(**more, val_labels="labels")
        message = "data.val_labels cannot be used: .* 'instances', which needs data.train_json and"
        with pytest.raises(UsageError, match=message):
            apply_custom_data(cfg)


def test_other_keys_of_the_data_are_no_paths() -> None:
    cfg = make_config(train_scale="512")
    apply_custom_data(cfg)
    assert dataset_names(cfg, "test") == ["coco_2017_val"]


@pytest.mark.parametrize(
    ("given", "missing"),
    [("train_json", "train_images"), ("val_images", "val_json")],
)
def test_one_path_of_a_pair(given: str, missing: str) -> None:
    with pytest.raises(UsageError, match=rf"data\.{given} is given without data\.{missing}"):
        apply_custom_data(make_config(**{given: "somewhere"}))


def test_path_that_is_called_null() -> None:
    cfg = apply_overrides(make_config(train_json="a.json"), ["+data.train_images=null"])
    with pytest.raises(UsageError, match=r"data\.train_images; .* Write \./null for a path"):
        apply_custom_data(cfg)


def test_different_categories(tmp_path: Path) -> None:
    train = write_data(tmp_path / "train", ["cell", "gap"])
    val = write_data(tmp_path / "val", ["cell"])
    with pytest.raises(ValueError, match=r"cell, gap.*cell.*same"):
        apply_custom_data(make_config(**paths("train", train), **paths("val", val)))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"labels\.json"):
        apply_custom_data(make_config(**paths("val", tmp_path)))


def test_model_with_another_number_of_classes(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "val", ["cell", "gap"])
    cfg = apply_custom_data(make_config(**paths("val", folder)))
    set_num_classes(cfg, 3)
    with pytest.raises(ValueError, match=r"2 thing classes \(cell, gap\).*num_classes=3"):
        check_classes(cfg, training=False)


@pytest.mark.parametrize("iscrowd", [None, 1])
def test_training_data_without_objects(tmp_path: Path, iscrowd: int | None) -> None:
    folder = write_data(tmp_path, ["cell"])
    content = json.loads((folder / "labels.json").read_text())
    if iscrowd is None:
        del content["annotations"]
    else:
        content["annotations"][0]["iscrowd"] = iscrowd
    (folder / "labels.json").write_text(json.dumps(content))
    cfg = apply_custom_data(make_config(**paths("train", folder), **paths("val", folder)))
    check_classes(cfg, training=False)
    with pytest.raises(ValueError, match="labels.json. has no objects to learn from.*'iscrowd'"):
        check_classes(cfg, training=True)


def test_config_without_task(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_data(tmp_path, ["cell"])
    cfg = apply_custom_data(make_config(**paths("val", folder)))
    del cfg.task
    set_aside = cfg.model.num_classes
    cfg.model.num_classes = 7
    check_classes(cfg, training=False)
    assert "no node 'task', so the model's" in caplog.text and "custom_val" in caplog.text
    cfg.model.num_classes = set_aside
    with pytest.raises(UsageError, match=r"add the overrides \+task\.name=<instances or"):
        apply_custom_data(cfg)


def test_files_of_instances_for_a_panoptic_model(tmp_path: Path) -> None:
    cfg = make_config(**paths("val", write_data(tmp_path, ["cell"])))
    cfg.task.name = "panoptic"
    message = "data.val_json cannot be used: .* 'panoptic', which needs data.train_panoptic_json, "
    with pytest.raises(UsageError, match=message):
        apply_custom_data(cfg)
