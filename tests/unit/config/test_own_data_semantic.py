"""Folders of images and label maps, given to a config as paths."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyCall as L, LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from vit_adapter.config.data_checks import check_classes, dataset_names
from vit_adapter.config.errors import UsageError
from vit_adapter.config.overrides import apply_overrides
from vit_adapter.config.own_data import apply_custom_data
from vit_adapter.config.tasks import given_classes
from vit_adapter.data import SemanticMapper, semantic_dataset_dicts
from vit_adapter.engine.run import evaluate_checkpoint
from vit_adapter.engine.setup import save_config
from vit_adapter.evaluation import SemSegEvaluator

PATHS = ("train_images", "train_labels", "val_images", "val_labels")


def build(**options: object) -> dict[str, object]:
    """Stands in for whatever a node of a config instantiates."""
    return options


def loader(split: str) -> DictConfig:
    return L(build)(
        dataset=L(semantic_dataset_dicts)(names=f"ade20k_sem_seg_{split}"),
        mapper=L(SemanticMapper)(
            is_train=split == "train",
            augmentations=[],
            image_format="RGB",
            dataset_names="${..dataset.names}",
        ),
    )


def make_config(**data: object) -> DictConfig:
    empty = {**dict.fromkeys(PATHS, ""), "classes": "", "check_all": False}
    return OmegaConf.create(
        {
            "data": empty | {k: str(v) if isinstance(v, Path) else v for k, v in data.items()},
            "dataloader": {
                "train": loader("train"),
                "test": loader("val"),
                "evaluator": L(SemSegEvaluator)(dataset_name="${..test.dataset.names}"),
            },
            "task": {"name": "semantic", "num_classes": "model.head.num_classes"},
            "model": L(build)(
                head=L(build)(num_classes=150),
                auxiliary=L(build)(num_classes="${..head.num_classes}"),
            ),
            "train": {"output_dir": "out"},
        },
        flags={"allow_objects": True},
    )


def write_data(folder: Path, split: str, value: int = 1) -> dict[str, Path]:
    """Write three pairs of files and return the overrides that name them."""
    for kind in ("images", "labels"):
        (folder / split / kind).mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (6, 4)).save(folder / split / f"images/{name}.jpg")
        labels = np.full((4, 6), value, np.uint8)
        Image.fromarray(labels).save(folder / split / f"labels/{name}.png")
    return {f"{split}_{kind}": folder / split / kind for kind in ("images", "labels")}


def test_config_without_custom_data_is_unchanged() -> None:
    cfg = make_config()
    before = OmegaConf.to_yaml(cfg)
    assert OmegaConf.to_yaml(apply_custom_data(cfg)) == before


def test_names_classes_mapper_and_evaluator_follow(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["road", "sky", "car"]}))
    train, val = (write_data(tmp_path, split) for split in ("train", "val"))
    cfg = make_config(**train, **val, classes=tmp_path / "classes.json")
    apply_custom_data(cfg)
    assert dataset_names(cfg, "train") == ["custom_train"]
    assert dataset_names(cfg, "test") == ["custom_val"]
    assert cfg.model.head.num_classes == cfg.model.auxiliary.num_classes == 3
    assert cfg.data.classes == ["road", "sky", "car"]
    assert MetadataCatalog.get("custom_train").stuff_classes == ["road", "sky", "car"]
    check_classes(cfg, training=True)
    assert instantiate(cfg.dataloader.train.mapper).num_classes == 3
    assert isinstance(instantiate(cfg.dataloader.evaluator), SemSegEvaluator)
    assert len(DatasetCatalog.get("custom_val")) == 3


@pytest.mark.parametrize("given", ["file", "override"])
def test_class_names_with_a_special_meaning_in_a_config(tmp_path: Path, given: str) -> None:
    names = ["???", "${price", "${oc.env:HOME}", "1_0"]
    (tmp_path / "classes.json").write_text(json.dumps(names))
    text = tmp_path / "classes.json" if given == "file" else f"[{','.join(names)}]"
    cfg = make_config(**write_data(tmp_path, "train"))
    apply_custom_data(apply_overrides(cfg, [f"data.classes={text}"]))
    save_config(cfg, str(tmp_path))
    saved = apply_custom_data(LazyConfig.load(str(tmp_path / "config.yaml")))
    assert given_classes(saved) == MetadataCatalog.get("custom_train").stuff_classes == names


def test_classes_as_a_list_and_a_saved_config(tmp_path: Path) -> None:
    cfg = make_config(**write_data(tmp_path, "train"), classes=["road", "sky"])
    apply_custom_data(cfg)
    assert cfg.dataloader.evaluator is None and dataset_names(cfg, "test") == ["custom_train"]
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    saved = LazyConfig.load(str(tmp_path / "config.yaml"))
    saved.data.update({k: str(path) for k, path in write_data(tmp_path, "val").items()})
    apply_custom_data(saved)
    evaluator = instantiate(saved.dataloader.evaluator)
    assert isinstance(evaluator, SemSegEvaluator)
    assert saved.dataloader.evaluator.dataset_name == "custom_val"


def test_other_folders_replace_earlier_ones(tmp_path: Path) -> None:
    for index, classes in enumerate((["a", "b"], ["a", "b", "c"])):
        data = write_data(tmp_path / str(index), "val")
        cfg = apply_custom_data(make_config(**data, classes=classes))
        assert cfg.model.head.num_classes == len(classes)


@pytest.mark.parametrize(
    ("given", "missing"),
    [("train_labels", "train_images"), ("val_images", "val_labels")],
)
def test_one_path_of_a_pair(given: str, missing: str) -> None:
    with pytest.raises(UsageError, match=rf"data\.{given} is given without data\.{missing}"):
        apply_custom_data(make_config(**{given: "somewhere"}, classes=["a"]))


def test_folders_without_classes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"need data\.classes.*data\.classes=\[road,sky\]"):
        apply_custom_data(make_config(**write_data(tmp_path, "train")))


def test_labels_outside_the_classes_are_refused_before_training(tmp_path: Path) -> None:
    data = write_data(tmp_path, "train", value=2)
    with pytest.raises(ValueError, match=r"a\.png has the values 2 in 24 pixels.* 2 classes"):
        apply_custom_data(make_config(**data, classes=["a", "b"]))


def test_all_files_are_read_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_adapter.data.semantic.own_folders.NUM_CHECKED", 1)
    data = write_data(tmp_path, "train")
    Image.fromarray(np.full((4, 6), 9, np.uint8)).save(data["train_labels"] / "c.png")
    apply_custom_data(make_config(**data, classes=["a", "b"]))
    with pytest.raises(ValueError, match=r"c\.png has the values 9"):
        apply_custom_data(make_config(**data, classes=["a", "b"], check_all=True))


def test_missing_label_is_named(tmp_path: Path) -> None:
    data = write_data(tmp_path, "val")
    (data["val_labels"] / "b.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 label maps are missing in .*labels: b\."):
        apply_custom_data(make_config(**data, classes=["a", "b"]))


def test_evaluation_without_labels_says_how_to_give_them(tmp_path: Path) -> None:
    cfg = make_config(**write_data(tmp_path, "train"), classes=["a", "b"])
    with pytest.raises(UsageError, match=r"give data\.val_images together with .*data\.val_labels"):
        evaluate_checkpoint(apply_custom_data(cfg))


def test_model_with_another_number_of_classes(tmp_path: Path) -> None:
    cfg = apply_custom_data(make_config(**write_data(tmp_path, "val"), classes=["a", "b"]))
    cfg.model.head.num_classes = 3
    expected = r"2 stuff classes \(a, b\).*model\.head\.num_classes=3"
    with pytest.raises(ValueError, match=expected):
        check_classes(cfg, training=False)


def test_missing_public_data_are_refused_before_training() -> None:
    with pytest.raises(FileNotFoundError, match=r"DETECTRON2_DATASETS.*prepare_dataset\.py ade20k"):
        check_classes(make_config(), training=True)
