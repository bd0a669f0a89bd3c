"""LazyPredictor with semantic models."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from vit_adapter import LazyPredictor, model_zoo

SMALL = ["train.device=cpu", "data.test_scale=[128,64]"]


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def semantic_config():
    return model_zoo.get_config("quick_start/upernet_vit_adapter_tiny_scratch")


@pytest.fixture(scope="module")
def segmenter(semantic_config):
    return LazyPredictor(semantic_config, overrides=SMALL)


class TestSemanticModels:
    def test_scores_are_in_the_frame_of_the_image(self, segmenter, image):
        output = segmenter(image)
        assert list(output) == ["sem_seg"]
        assert output["sem_seg"].shape == (5, 70, 90)

    def test_equals_the_model_on_the_output_of_the_test_mapper(self, segmenter, image, tmp_path):
        Image.fromarray(image[:, :, ::-1]).save(tmp_path / "image.png")
        mapper = instantiate(segmenter.cfg.dataloader.test.mapper)
        record = {"file_name": str(tmp_path / "image.png"), "height": 70, "width": 90}
        with torch.no_grad():
            expected = segmenter.model([mapper(record)])[0]["sem_seg"]
        assert torch.equal(segmenter(image)["sem_seg"], expected)

    def test_windows_and_scales_of_the_config_are_used(
        self, semantic_config, segmenter, image, tmp_path
    ):
        torch.save({"model": segmenter.model.state_dict()}, tmp_path / "model.pth")
        test = {
            "sliding_window": {"crop_size": [48, 48], "stride": [32, 32]},
            "multi_scale": {"enabled": True, "scales": [0.5, 1.0], "flip": True},
        }
        cfg = deepcopy(semantic_config)
        cfg.test = test
        predictor = LazyPredictor(cfg, tmp_path / "model.pth", SMALL)
        scores = predictor(image)["sem_seg"]
        torch.testing.assert_close(scores.sum(0), torch.ones(70, 90))
        single_scale = [*SMALL, "test.multi_scale.enabled=False"]
        windows = LazyPredictor(cfg, tmp_path / "model.pth", single_scale)(image)["sem_seg"]
        assert not torch.allclose(windows, segmenter(image)["sem_seg"])

    def test_metadata_has_the_palette(self, segmenter):
        assert segmenter.metadata.stuff_classes[0] == "circle"
        assert len(segmenter.metadata.stuff_colors) == 5

    def test_custom_classes(self, semantic_config, image, tmp_path):
        (tmp_path / "classes.json").write_text(json.dumps(["road", "sky", "tree"]))
        for classes in ("[road,sky,tree]", str(tmp_path / "classes.json")):
            overrides = [*SMALL, f"data.classes={classes}"]
            predictor = LazyPredictor(semantic_config, overrides=overrides)
            assert predictor.metadata.stuff_classes == ["road", "sky", "tree"]
            assert len(set(predictor.metadata.stuff_colors)) == 3
            assert predictor(image)["sem_seg"].shape == (3, 70, 90)
