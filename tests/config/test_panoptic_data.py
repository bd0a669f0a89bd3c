"""The data of the panoptic models: data sets, classes and sizes."""

import pytest
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig

from vit_adapter import model_zoo
from vit_adapter.config.data_checks import dataset_names
from vit_adapter.data import (
    PanopticMapper,
    coco_panoptic_train,
    large_scale_jitter,
    resize,
)
from vit_adapter.evaluation import build_panoptic_evaluator

FOLDER = model_zoo.config_root() / "common/data"
COCO = ("coco_2017_train_panoptic", "coco_2017_val_panoptic")
ADE20K = ("ade20k_panoptic_train", "ade20k_panoptic_val")
CITYSCAPES = ("cityscapes_fine_panoptic_train", "cityscapes_fine_panoptic_val")
# data sets, augmentations for training, for testing
EXPECTED = {
    ("coco_panoptic", "dataloader_detr"): (COCO, coco_panoptic_train(), resize([800], 1333)),
    ("coco_panoptic", "dataloader_1024"): (COCO, large_scale_jitter(1024), resize([800], 1333)),
    ("coco_panoptic", "dataloader_640"): (COCO, large_scale_jitter(640), resize([640], 640)),
    ("ade20k_panoptic", "dataloader"): (ADE20K, large_scale_jitter(640), resize([640], 2560)),
    ("cityscapes_panoptic", "dataloader"): (CITYSCAPES, large_scale_jitter(1024), []),
}
# number of classes, and of things, with the index of the first
CLASSES = {
    "coco_panoptic": (133, 80, 0),
    "ade20k_panoptic": (150, 100, 7),
    "cityscapes_panoptic": (19, 8, 11),
}


@pytest.mark.parametrize(("name", "key"), EXPECTED)
def test_data_sets_and_augmentations(name: str, key: str) -> None:
    (train, test), train_augmentations, test_augmentations = EXPECTED[name, key]
    node = LazyConfig.load(str(FOLDER / f"{name}.py"), key)
    cfg = DictConfig(
        {"dataloader": node, "model": {"instance_on": True}, "train": {"output_dir": "out"}},
        flags={"allow_objects": True},
    )
    assert (dataset_names(cfg, "train"), dataset_names(cfg, "test")) == ([train], [test])
    assert cfg.dataloader.evaluator.dataset_name == test
    assert cfg.dataloader.evaluator.instances
    assert cfg.dataloader.evaluator._target_ is build_panoptic_evaluator
    for split, expected in (("train", train_augmentations), ("test", test_augmentations)):
        mapper = instantiate(cfg.dataloader[split].mapper)
        assert isinstance(mapper, PanopticMapper)
        assert mapper.is_train == (split == "train")
        found = instantiate(cfg.dataloader[split].mapper.augmentations)
        assert repr(found) == repr(expected)
        assert not cfg.dataloader[split].dataset.filter_empty
    is_square = cfg.dataloader.train.get("aspect_ratio_grouping", True) is False
    assert is_square == (key != "dataloader_detr")


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name: str) -> None:
    num_classes, things = (
        LazyConfig.load(str(FOLDER / f"{name}.py"), key) for key in ("num_classes", "thing_classes")
    )
    assert (num_classes, len(things), things[0]) == CLASSES[name]


def test_paths_of_custom_data() -> None:
    data = LazyConfig.load(str(FOLDER / "panoptic.py"), "data")
    kinds = ("panoptic_json", "panoptic_pngs", "images")
    paths = {f"{split}_{kind}" for split in ("train", "val") for kind in kinds}
    assert set(data) == {*paths, "classes", "check_all"}
    assert not any(data.values())
