"""The config of a portable folder: what is kept, and that it is only data."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L, instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from vit_adapter import model_zoo
from vit_adapter.config.errors import UsageError
from vit_adapter.config.loading import load_config
from vit_adapter.config.own_data import apply_custom_data
from vit_adapter.config.portable import describe_model, read_portable, stored_metadata
from vit_adapter.evaluation import build_coco_evaluator
from vit_adapter.hub import FolderContents, write_folder

DETECTOR = "quick_start/mask_rcnn_vit_adapter_shapes"
CLASSES = {
    "thing_classes": ["${cell", "???"],
    "thing_colors": [[1, 2, 3], [4, 5, 6]],
    "thing_dataset_id_to_contiguous_id": [(3, 0), (7, 1)],
}


@pytest.fixture
def cfg() -> DictConfig:
    return model_zoo.get_config(DETECTOR)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[FolderContents], Path]:
    """A function that writes a portable folder with no real weights."""
    return lambda contents: write_folder(
        tmp_path / "a ${b", contents, {"w": torch.zeros(1)}, card="", licence=""
    )


def test_only_what_prediction_needs_is_kept(cfg: DictConfig) -> None:
    cfg.train.output_dir = cfg.train.vit_checkpoint = cfg.data.train_json = "/home/me/secret"
    before = deepcopy(cfg)
    contents = describe_model(cfg, CLASSES, {"bbox": {"AP": 1.0}})
    assert set(contents.config) == {"model", "dataloader", "data", "test", "task"}
    assert set(contents.config["dataloader"]) == {"test", "evaluator"}
    assert "secret" not in repr(contents) and "${" not in repr(contents.config)
    assert contents.preprocessing == {
        "pixel_mean": list(cfg.model.pixel_mean),
        "pixel_std": list(cfg.model.pixel_std),
    }
    assert contents.metrics == {"bbox": {"AP": 1.0}}
    assert cfg == before


def test_the_same_model_is_described(cfg: DictConfig, write: Callable) -> None:
    folder = write(describe_model(cfg, CLASSES, {}))
    found = load_config(folder)
    resolve = OmegaConf.to_container
    assert resolve(found.model, resolve=True) == resolve(cfg.model, resolve=True)
    loader = resolve(found.dataloader.test, resolve=True)
    assert loader == resolve(cfg.dataloader.test, resolve=True)
    assert found.test == cfg.test and found.task == cfg.task
    assert found.train.init_checkpoint == str(folder / "model.safetensors")
    assert found.dataloader.evaluator.output_dir == "./output/inference"
    assert stored_metadata(found) == {
        **CLASSES,
        "thing_colors": [(1, 2, 3), (4, 5, 6)],
        "thing_dataset_id_to_contiguous_id": {3: 0, 7: 1},
    }
    assert stored_metadata(cfg) is None


def test_paths_in_a_folder_are_not_used(cfg: DictConfig, write: Callable) -> None:
    contents = describe_model(cfg, {}, {})
    contents.config["data"] |= {"val_json": "/etc/passwd", "classes": "/etc/passwd"}
    found = load_config(write(contents))
    assert not found.data.val_json and not found.data.train_images
    apply_custom_data(found, training=False)  # which finds none


def test_own_data_are_forgotten_but_can_be_given(
    cfg: DictConfig, write: Callable, tmp_path: Path
) -> None:
    cfg.dataloader.test.dataset.names = "custom_val"
    cfg.dataloader.evaluator.dataset_name = "custom_val"
    found = load_config(write(describe_model(cfg, {"thing_classes": ["a"]}, {})))
    assert found.dataloader.evaluator is None
    (tmp_path / "v.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}], '
        '"annotations": [], "categories": [{"id": 1, "name": "b"}]}'
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    found.data.val_json, found.data.val_images = str(tmp_path / "v.json"), str(tmp_path)
    with pytest.raises(ValueError, match="classes b, but .* with a"):
        apply_custom_data(found, training=False)
    assert found.dataloader.evaluator["_target_"] is build_coco_evaluator


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.vis_period": lambda: 0}, "model.vis_period is a function.*only data"),
        ({"model.x": L(lambda: 0)()}, "model.x._target_ is .*lambda.*no other program"),
        ({"model.x": {3: 1}}, "model.x has the key 3"),
        ({"model.vis_period": "${absent}"}, "interpolation without a value.*absent"),
        ({"task": {}}, "does not say what its model is trained for"),
    ],
)
def test_what_is_not_data_is_named(cfg: DictConfig, change: dict, message: str) -> None:
    for key, value in change.items():
        OmegaConf.update(cfg, key, value, merge=False)
    with pytest.raises(UsageError, match=message):
        describe_model(cfg, {}, {})


def test_an_altered_folder_is_a_mistake_of_the_user(cfg: DictConfig, write: Callable) -> None:
    folder = write(describe_model(cfg, {}, {}))
    (folder / "preprocessing.json").write_text('{"pixel_mean": [0, 0, 0]}')
    with pytest.raises(UsageError, match="preprocessing.json was altered"):
        load_config(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.pop("model"), "no 'model', expected a complete config"),
        (lambda config: config.update(train={}), r"unknown keys \['train'\]"),
    ],
)
def test_incomplete_and_larger_configs_are_refused(
    cfg: DictConfig, write: Callable, change: Callable[[dict], object], message: str
) -> None:
    contents = describe_model(cfg, {}, {})
    change(contents.config)
    with pytest.raises(UsageError, match=message):
        read_portable(write(contents))


def test_evaluators_write_to_the_output_folder(cfg: DictConfig, write: Callable) -> None:
    found = load_config(write(describe_model(cfg, {}, {})), ["train.output_dir=/tmp/here"])
    assert found.dataloader.evaluator.output_dir == "/tmp/here/inference"
    assert instantiate(found.dataloader.test.mapper).image_format == "RGB"
