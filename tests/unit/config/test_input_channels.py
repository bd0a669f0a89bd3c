"""``model.input_channels``: what it stands for, and the statistics that follow from the data."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from omegaconf import DictConfig

from vit_adapter import LazyPredictor
from vit_adapter.config.errors import UsageError
from vit_adapter.config.input_channels import fit_statistics
from vit_adapter.config.loading import load_config
from vit_adapter.config.model import build_model

NAME = "quick_start/mask_rcnn_vit_adapter_shapes"
DATA = "dataloader.train.dataset.names=channels_train"
FIVE = [
    "train.device=cpu",
    "model.pixel_mean=[1,2,3,4,5]",
    "model.pixel_std=[5,4,3,2,1]",
    "model.input_channels=5",
]


def register(name: str, folder: Path, images: list[np.ndarray]) -> None:
    folder.mkdir()
    records = []
    for number, image in enumerate(images):
        np.save(folder / f"{number}.npy", image)
        records.append({"file_name": str(folder / f"{number}.npy"), "image_id": number})
    DatasetCatalog.register(name, lambda: records)


@pytest.fixture
def cfg(tmp_path: Path) -> Iterator[DictConfig]:
    """A config of two channels whose training images have uniform values of 16 bits."""
    draw = np.random.default_rng(0)
    images = [
        np.stack([draw.integers(0, 1001, (40, 50)), draw.integers(60000, 60101, (40, 50))], -1)
        for _ in range(6)
    ]
    register("channels_train", tmp_path / "train", [each.astype(np.uint16) for each in images])
    yield load_config(NAME, ["model.input_channels=2", DATA, "dataloader.evaluator=null"])
    for name in ("channels_train", "channels_val"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)


def refit(cfg: DictConfig, *overrides: str) -> DictConfig:
    cfg = load_config(cfg, overrides)
    fit_statistics(cfg)
    return cfg


def test_the_key_is_replaced_by_what_it_stands_for() -> None:
    cfg = load_config(NAME, FIVE)
    assert "input_channels" not in cfg.model
    assert cfg.model.backbone.bottom_up.vit.in_channels == 5
    mappers = (cfg.dataloader.train.mapper, cfg.dataloader.test.mapper)
    assert [mapper.image_format for mapper in mappers] == [5, 5]
    model = build_model(cfg)
    assert model.pixel_mean.flatten().tolist() == [1, 2, 3, 4, 5]
    assert model.backbone.bottom_up.spm.stem[0].in_channels == 5


@pytest.mark.parametrize(
    "name",
    [
        "ade20k/upernet_vit_adapter_tiny_deit_512_160k",
        "ade20k/mask2former_vit_adapter_large_beitv2_896_160k",
        "coco/atss_vit_adapter_base_dinov2_3x",
        "coco/mask_rcnn_vit_tiny_deit_3x",
    ],
)
def test_configs_of_other_models(name: str) -> None:
    cfg = load_config(name, ["model.input_channels=4"])
    backbone = cfg.model.backbone
    assert backbone.get("bottom_up", backbone).vit.in_channels == 4
    assert cfg.dataloader.train.mapper.image_format == 4
    assert cfg.model.pixel_mean is None and cfg.model.pixel_std is None


def test_without_the_key_nothing_changes() -> None:
    cfg = load_config(NAME)
    assert cfg.dataloader.train.mapper.image_format == "RGB"
    assert "in_channels" not in cfg.model.backbone.bottom_up.vit
    assert cfg.model.pixel_mean == [123.675, 116.28, 103.53]


@pytest.mark.parametrize("value", ["0", "-1", "2.5", "many", "[3]", "null", "true"])
def test_other_values_are_refused(value: str) -> None:
    with pytest.raises(UsageError, match="model.input_channels=.* must be a whole number"):
        load_config(NAME, [f"model.input_channels={value}"])


def test_statistics_come_from_the_training_data(cfg, caplog) -> None:
    assert cfg.model.pixel_mean is None
    with caplog.at_level(logging.INFO, "vit_adapter"):
        fit_statistics(cfg)
    (first, second), (first_std, second_std) = cfg.model.pixel_mean, cfg.model.pixel_std
    assert (first, second) == pytest.approx((500, 60050), rel=0.01)
    assert (first_std, second_std) == pytest.approx((289, 29.2), rel=0.02)
    words = f"2 channels (uint16) from 6 of 6 training images: model.pixel_mean=[{first}, {second}]"
    assert words in caplog.text


def test_statistics_of_a_training_stay(cfg) -> None:
    fit_statistics(cfg)
    cfg.model.pixel_mean = [400.0, 60040.0]
    again = refit(cfg, "model.input_channels=2")
    assert again.model.pixel_mean == [400, 60040]
    assert refit(cfg, "model.pixel_mean=null").model.pixel_mean != [400, 60040]


def test_given_statistics_are_compared_with_the_data(cfg, caplog) -> None:
    near = ["model.pixel_mean=[500,60050]", "model.pixel_std=[300,30]"]
    assert refit(cfg, *near).model.pixel_std == [300, 30]
    assert "do not fit" not in caplog.text
    refit(cfg, "model.pixel_mean=[500,233]", "model.pixel_std=[300,30]")
    assert "model.pixel_mean=[500, 233]" in caplog.text and "do not fit" in caplog.text


def test_rgb_in_other_units_gets_statistics_of_its_own() -> None:
    assert load_config(NAME, ["model.input_channels=3"]).model.pixel_mean is None
    given = ["model.input_channels=3", "model.pixel_mean=[1,2,3]", "model.pixel_std=[1,1,1]"]
    assert load_config(NAME, given).model.pixel_mean == [1, 2, 3]
    own = load_config(NAME)  # a config file that states both
    own.model.input_channels = 3
    assert load_config(own).model.pixel_mean == [123.675, 116.28, 103.53]


@pytest.mark.parametrize("values", ["[1,2,3]", "7", "[]"])
def test_statistics_of_another_length_are_refused(values: str) -> None:
    with pytest.raises(UsageError, match=r"model\.pixel_std has .*, expected a list of 5"):
        load_config(NAME, [*FIVE, f"model.pixel_std={values}"])


def test_unknown_statistics_end_evaluation_and_prediction() -> None:
    with pytest.raises(UsageError, match="model.pixel_mean is not known: .* output folder"):
        LazyPredictor(NAME, overrides=["model.input_channels=5", "train.device=cpu"])


def test_images_of_another_number_of_channels_are_named(cfg) -> None:
    cfg = load_config(cfg, ["model.input_channels=3"])
    with pytest.raises(ValueError, match=r"0\.npy has shape \(40, 50, 2\) and type uint16, exp"):
        fit_statistics(cfg)


def test_mixed_types_are_named(cfg, tmp_path) -> None:
    images = [np.zeros((8, 8, 2), np.uint16)] * 2
    register("channels_val", tmp_path / "val", [*images, np.zeros((8, 8, 2), np.uint8)])
    cfg.dataloader.train.dataset.names = ["channels_train", "channels_val"]
    with pytest.raises(ValueError, match=r"val/2\.npy has pixels of type uint8.*train/0\.npy has"):
        fit_statistics(cfg)
    cfg.dataloader.train.dataset.names = "channels_train"
    cfg.dataloader.test.dataset.names = "channels_val"
    cfg.dataloader.evaluator = {}
    with pytest.raises(ValueError, match="2.npy .* but the training images have uint16"):
        fit_statistics(cfg)


def test_values_that_are_not_numbers_are_named(cfg, tmp_path) -> None:
    register("channels_val", tmp_path / "val", [np.full((8, 8, 2), np.nan, np.float32)])
    cfg.dataloader.train.dataset.names = "channels_val"
    with pytest.raises(ValueError, match=r"val/0\.npy has 128 values that are NaN"):
        fit_statistics(cfg)


def test_a_constant_channel_has_a_std_of_one(cfg, tmp_path, caplog) -> None:
    image = np.random.default_rng(0).random((8, 8, 2)).astype(np.float32)
    image[..., 1] = 0.3
    register("channels_val", tmp_path / "val", [image])
    cfg.dataloader.train.dataset.names = "channels_val"
    fit_statistics(cfg)
    assert cfg.model.pixel_std[1] == 1 and cfg.model.pixel_std[0] < 0.5
    assert "The channels [1] (from 0) are constant" in caplog.text


def test_parts_for_rgb_are_removed(caplog) -> None:
    given = ["model.input_channels=5", "+model.vis_period=10"]
    name = "coco/htc_vit_adapter_large_beitv2_3x"
    cfg = load_config(name, given)
    assert cfg.dataloader.train.mapper.instance_jitter is None and cfg.model.vis_period == 0
    assert "removes instance_jitter" in caplog.text and "vis_period=0" in caplog.text
