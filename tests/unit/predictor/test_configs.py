"""LazyPredictor: what it reads from configs and checkpoints, and what it refuses."""

import json
import logging
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, get_cfg
from omegaconf import OmegaConf
from PIL import Image
from predictors import CPU, NAME, OVERRIDES, assert_same

from vit_adapter import LazyPredictor, model_zoo
from vit_adapter.checkpoint import CheckpointMismatchError
from vit_adapter.config.loading import load_config
from vit_adapter.engine.setup import save_config


class TestConfigs:
    def test_path_name_object_and_yaml_give_the_same(self, predictor, weights, image, tmp_path):
        expected = predictor(image)["instances"]
        yaml_file = tmp_path / "saved.yaml"
        LazyConfig.save(model_zoo.get_config(NAME), str(yaml_file))
        cfg = model_zoo.get_config(NAME)
        before = deepcopy(cfg)
        plain = OmegaConf.to_container(cfg)
        for config in (model_zoo.get_config_file(NAME), yaml_file, str(yaml_file), cfg, plain):
            assert_same(LazyPredictor(config, weights, OVERRIDES)(image)["instances"], expected)
        assert cfg == before

    def test_output_folder_of_a_training(self, predictor, weights, image, tmp_path):
        expected = predictor(image)["instances"]
        cfg = model_zoo.get_config(NAME)
        cfg.train.init_checkpoint = "pretrained/elsewhere.pth"
        cfg.optimizer.params.factor = lambda name: 1.0  # YAML cannot hold it
        tmp_path = tmp_path / "run ${1}"
        tmp_path.mkdir()
        save_config(cfg, str(tmp_path))
        with pytest.raises(FileNotFoundError, match="config.yaml but no model_final.pth; train"):
            LazyPredictor(tmp_path)
        (tmp_path / "model_0000009.pth").write_bytes(weights.read_bytes())
        (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
        assert load_config(tmp_path).train.init_checkpoint.endswith("model_0000009.pth")
        assert_same(LazyPredictor(tmp_path, overrides=OVERRIDES)(image)["instances"], expected)
        (tmp_path / "model_final.pth").write_bytes(weights.read_bytes())
        (tmp_path / "last_checkpoint").write_text("model_final.pth")
        assert load_config(str(tmp_path)).train.init_checkpoint.endswith("model_final.pth")
        assert_same(LazyPredictor(tmp_path, overrides=OVERRIDES)(image)["instances"], expected)

    def test_overrides_are_applied_last(self, weights, tmp_path):
        LazyConfig.save(model_zoo.get_config(NAME), str(tmp_path / "config.yaml"))
        (tmp_path / "model_final.pth").write_bytes(b"not to be read")
        override = f"train.init_checkpoint={weights}"
        predictor = LazyPredictor(tmp_path, overrides=[*CPU, override])
        assert predictor.cfg.train.init_checkpoint == str(weights)

    @pytest.mark.parametrize(
        ("config", "error", "message"),
        [
            ("coco/mask_rcnn_vit_adapter_tiny", ValueError, "mean coco/mask_rcnn_vit_adapter"),
            ("configs/none.py", FileNotFoundError, "config file 'configs/none.py' does not exist"),
            ("/none/at/all", FileNotFoundError, "config file '/none/at/all' does not exist"),
            (17, TypeError, "config is of type int"),
            ({"train": {}}, ValueError, "the config object has no key 'model', only train"),
            ({}, ValueError, "only nothing"),
            (get_cfg(), ValueError, "yacs config.*DefaultPredictor"),
        ],
    )
    def test_anything_but_a_lazy_config_is_refused(self, config, error, message):
        with pytest.raises(error, match=message):
            LazyPredictor(config)

    def test_a_yacs_file_and_an_unrelated_folder_are_refused(self, tmp_path):
        file = tmp_path / "yacs.yaml"
        file.write_text(get_cfg().dump())
        with pytest.raises(ValueError, match=r"yacs.yaml is a yacs config.*DefaultPredictor"):
            LazyPredictor(file)
        with pytest.raises(FileNotFoundError, match="has no config.yaml"):
            LazyPredictor(tmp_path)

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("dataloader.test.mapper.image_format=L", "image_format is 'L', expected RGB or BGR"),
            ("dataloader.test.mapper=null", "has no dataloader.test.mapper.augmentations"),
            ("train.device=tpu", "tpu"),
            ("trian.device=cpu", "trian.device"),
            ("train.device", "key=value"),
        ],
    )
    def test_unusable_values_are_named(self, override, message):
        with pytest.raises(ValueError, match=message):
            LazyPredictor(NAME, overrides=[override])

    def test_overrides_must_be_a_list(self):
        with pytest.raises(TypeError, match="pass a list"):
            LazyPredictor(NAME, overrides="train.device=cpu")


class TestWeights:
    def test_of_another_architecture_are_refused(self, weights):
        with pytest.raises(CheckpointMismatchError, match="roi_heads.box_predictor.cls_score"):
            LazyPredictor(NAME, weights, [*CPU, "model.roi_heads.num_classes=5"])

    def test_may_differ_where_the_config_allows_it(self, weights):
        allow = "train.allow_mismatch=['box_predictor','mask_head.predictor']"
        LazyPredictor(NAME, weights, [*CPU, "model.roi_heads.num_classes=5", allow])

    def test_missing_or_truncated_files_are_named(self, weights, tmp_path):
        with pytest.raises(FileNotFoundError, match="none.pth"):
            LazyPredictor(NAME, "none.pth", CPU)
        short = tmp_path / "short.pth"
        short.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(ValueError, match="short.pth"):
            LazyPredictor(NAME, short, CPU)

    def test_without_any_the_predictor_says_so(self, caplog):
        log = logging.getLogger("vit_adapter.predictor")
        log.addHandler(caplog.handler)  # Detectron2's loggers do not propagate after their set-up
        try:
            LazyPredictor(NAME, overrides=CPU)
        finally:
            log.removeHandler(caplog.handler)
        assert "randomly initialised" in caplog.text


def _coco_file(folder: Path) -> dict[str, str]:
    """Write a data set of one image and two classes, and return its paths."""
    (folder / "images").mkdir()
    Image.new("RGB", (80, 60)).save(folder / "images" / "a.png")
    box = [4, 4, 20, 20]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 80, "height": 60}],
        "categories": [{"id": 3, "name": "${cell"}, {"id": 7, "name": "???"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 3,
                "bbox": box,
                "area": 400,
                "iscrowd": 0,
                "segmentation": [[4, 4, 24, 4, 24, 24, 4, 24]],
            },
        ],
    }
    (folder / "data.json").write_text(json.dumps(content))
    return {"json": str(folder / "data.json"), "images": str(folder / "images")}


@pytest.mark.parametrize("split", ["val", "train"])
def test_custom_data_give_the_classes_even_if_the_files_are_gone(tmp_path, split):
    data = _coco_file(tmp_path)
    overrides = [*CPU, f"data.{split}_json={data['json']}", f"data.{split}_images={data['images']}"]
    trained = LazyPredictor(NAME, overrides=overrides)
    assert list(trained.metadata.thing_classes) == ["${cell", "???"]
    output = tmp_path / "output"
    output.mkdir()
    save_config(trained.cfg, str(output))
    torch.save({"model": trained.model.state_dict()}, output / "model_final.pth")
    Path(data["json"]).unlink()
    moved = LazyPredictor(output)
    assert list(moved.metadata.thing_classes) == ["${cell", "???"]
    assert moved.metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert moved.model.roi_heads.box_predictor.cls_score.out_features == 2 + 1
