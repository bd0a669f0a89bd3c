"""The data of the segmentors: sizes and data sets of the original."""

import pytest
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig

from vit_adapter import model_zoo
from vit_adapter.config.data_checks import dataset_names
from vit_adapter.data import SemanticMapper, semantic_test, semantic_train
from vit_adapter.data.checks import class_names
from vit_adapter.data.semantic.sets import SETS

FOLDER = model_zoo.config_root() / "common/data"
# crop, scale, scale for testing, divisor for testing, data sets
EXPECTED = {
    "ade20k": (512, [2048, 512], [2048, 512], 32, "ade20k_sem_seg_train", "ade20k_sem_seg_val"),
    "cityscapes": (
        896, [2048, 1024], [2048, 1024], 1,
        "cityscapes_fine_sem_seg_train", "cityscapes_fine_sem_seg_val",
    ),
    "coco_stuff_10k": (
        512, [2048, 512], [2048, 512], 32, "coco_stuff_10k_train", "coco_stuff_10k_test",
    ),
    "coco_stuff_164k": (
        896, [3584, 896], [3584, 896], 32, "coco_stuff_164k_train", "coco_stuff_164k_val",
    ),
    "pascal_context": (
        480, [520, 520], [4096, 520], 32, "pascal_context_59_train", "pascal_context_59_val",
    ),
    "mapillary": (
        896, [2048, 1024], [2048, 1024], 32,
        "mapillary_vistas_sem_seg_train", "mapillary_vistas_sem_seg_val",
    ),
}  # fmt: skip


def load(name: str) -> DictConfig:
    cfg = LazyConfig.load(str(FOLDER / f"{name}.py"))
    cfg.model = {"pixel_mean": [123.675, 116.28, 103.53]}
    return cfg


def number(name: str, key: str = "num_classes") -> int:
    """A value that a config defines for the configs that import it."""
    return LazyConfig.load(str(FOLDER / f"{name}.py"), key)


@pytest.mark.parametrize("name", EXPECTED)
def test_data_of_the_original(name: str) -> None:
    crop, scale, test_scale, divisor, train, test = EXPECTED[name]
    cfg = load(name)
    assert dataset_names(cfg, "train") == [train] and dataset_names(cfg, "test") == [test]
    assert cfg.dataloader.evaluator.dataset_name == test
    num_classes = number(name)
    mapper = instantiate(cfg.dataloader.train.mapper)
    assert isinstance(mapper, SemanticMapper) and mapper.is_train
    assert (mapper.pad_size, mapper.num_classes) == ((crop, crop), num_classes)
    assert mapper.pixel_mean.tolist() == pytest.approx([123.675, 116.28, 103.53])
    expected = semantic_train(scale=scale, crop_size=(crop, crop))
    assert repr(instantiate(cfg.dataloader.train.mapper.augmentations)) == repr(expected)
    expected = semantic_test(scale=test_scale, size_divisor=divisor)
    assert repr(instantiate(cfg.dataloader.test.mapper.augmentations)) == repr(expected)
    assert not instantiate(cfg.dataloader.test.mapper).is_train
    assert cfg.dataloader.train.total_batch_size == 16


@pytest.mark.parametrize("name", SETS)
def test_the_number_of_classes_is_that_of_the_data(name: str) -> None:
    cfg = load(name)
    for data_set in dataset_names(cfg, "train") + dataset_names(cfg, "test"):
        assert number(name) == len(class_names(data_set, kind="stuff"))


@pytest.mark.parametrize("name", SETS)
def test_data_are_in_the_folders_of_detectron2(name: str) -> None:
    for split in ("train", "test"):
        with pytest.raises(FileNotFoundError, match="DETECTRON2_DATASETS"):
            instantiate(load(name).dataloader[split].dataset)


def test_sizes_are_changed_in_one_place() -> None:
    cfg = load("ade20k")
    cfg.data.update(crop_size=[640, 640], scale=[2560, 640], test_scale=[2048, 640])
    mapper = instantiate(cfg.dataloader.train.mapper)
    assert mapper.pad_size == (640, 640)
    expected = semantic_train(scale=(2560, 640), crop_size=(640, 640))
    assert repr(instantiate(cfg.dataloader.train.mapper.augmentations)) == repr(expected)
    found = instantiate(cfg.dataloader.test.mapper.augmentations)
    assert repr(found) == repr(semantic_test(scale=(2048, 640)))


def test_mapillary_for_cityscapes() -> None:
    cfg = load("mapillary")
    cfg.dataloader = cfg.dataloader_for_cityscapes
    train = dataset_names(cfg, "train")
    assert train == [f"mapillary_vistas_cityscapes_{split}" for split in ("train", "val")]
    assert dataset_names(cfg, "test") == ["cityscapes_fine_sem_seg_val"]
    names = [*train, "cityscapes_fine_sem_seg_val"]
    classes = {tuple(class_names(name, kind="stuff")) for name in names}
    assert len(classes) == 1 and len(*classes) == number("mapillary", "num_classes_for_cityscapes")
    assert instantiate(cfg.dataloader.train.mapper).num_classes == 19


@pytest.mark.parametrize("name", SETS)
def test_a_config_trains_on_every_split_for_training(name: str) -> None:
    cfg = load(name)
    used = set()
    for loader in [node for key, node in cfg.items() if key.startswith("dataloader")]:
        cfg.dataloader = loader
        used.update(dataset_names(cfg, "train"))
    splits = {split.name for split in SETS[name].splits if split.name.endswith("_train")}
    assert splits and splits <= used
