"""LazyPredictor: what it reads from a config, what it returns, what it refuses."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from omegaconf import OmegaConf
from PIL import Image

from vit_adapter import LazyPredictor, model_zoo
from vit_adapter.checkpoint import CheckpointMismatchError
from vit_adapter.config.loading import load_config
from vit_adapter.engine.setup import save_config
from vit_adapter.predictor import as_bgr_uint8
from vit_adapter.test_time import MixedPrecision

NAME = "quick_start/mask_rcnn_vit_adapter_shapes"
CPU = ["train.device=cpu"]
# All random boxes count, so that an untrained model has predictions.
OVERRIDES = [*CPU, "model.roi_heads.box_predictor.test_score_thresh=0.0"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of the quick-start model with random weights."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": LazyPredictor(NAME, overrides=CPU).model.state_dict()}, file)
    return file


@pytest.fixture(scope="module")
def predictor(weights):
    return LazyPredictor(NAME, weights, OVERRIDES)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    assert found.image_size == expected.image_size
    for field in ("scores", "pred_classes", "pred_masks"):
        assert torch.equal(found.get(field), expected.get(field))
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)


class TestPrediction:
    def test_equals_the_model_on_the_output_of_the_test_mapper(self, predictor, image, tmp_path):
        Image.fromarray(image[:, :, ::-1]).save(tmp_path / "image.png")
        mapper = instantiate(predictor.cfg.dataloader.test.mapper)
        record = {"file_name": str(tmp_path / "image.png"), "height": 70, "width": 90}
        with torch.no_grad():
            expected = predictor.model([mapper(record)])[0]["instances"]
        assert_same(predictor(image)["instances"], expected)

    def test_is_deterministic_and_changes_nothing(self, predictor, image):
        before = image.copy()
        state = deepcopy(predictor.model.state_dict())
        first, second = predictor(image)["instances"], predictor(image)["instances"]
        assert_same(first, second)
        assert np.array_equal(image, before)
        assert not first.scores.requires_grad
        assert not predictor.model.training
        after = predictor.model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in state.items())

    def test_result_is_in_the_frame_of_the_image(self, predictor, image):
        instances = predictor(image)["instances"]
        assert instances.image_size == (70, 90)
        assert instances.pred_masks.shape[1:] == (70, 90)
        x0, y0, x1, y1 = instances.pred_boxes.tensor.unbind(1)
        assert x0.min() >= 0 and y0.min() >= 0
        assert 45 < x1.max() <= 90 and 35 < y1.max() <= 70

    def test_colour_order_follows_the_config(self, weights, image):
        rgb = LazyPredictor(NAME, weights, OVERRIDES)
        bgr = LazyPredictor(NAME, weights, [*OVERRIDES, "model.input_format=BGR"])
        assert rgb.cfg.dataloader.test.mapper.image_format == "RGB"
        assert bgr.cfg.dataloader.test.mapper.image_format == "BGR"
        expected = rgb(image)["instances"]
        assert_same(bgr(image[:, :, ::-1])["instances"], expected)
        assert not torch.equal(bgr(image)["instances"].scores, expected.scores)

    def test_images_are_resized_as_the_config_says(self, weights, image, monkeypatch):
        key = "dataloader.test.mapper.augmentations"
        overrides = [*OVERRIDES, f"{key}.short_edges=[64]", f"{key}.max_size=72"]
        predictor = LazyPredictor(NAME, weights, overrides)
        seen = []
        monkeypatch.setattr(predictor, "model", lambda batch: seen.extend(batch) or [{}])
        predictor(image)
        assert seen[0]["image"].shape == (3, 56, 72)
        assert (seen[0]["height"], seen[0]["width"]) == (70, 90)

    def test_metadata_belongs_to_the_test_data(self, predictor):
        assert predictor.metadata.name == "shapes_val"
        assert predictor.metadata.thing_classes == ["circle", "square", "triangle"]


class TestBatch:
    def test_equals_single_images_in_one_pass_for_each_size(self, predictor, monkeypatch):
        draw = np.random.default_rng(1)
        sizes = [(70, 90), (40, 60), (70, 90), (140, 180), (60, 40)]  # the fourth becomes the first
        images = [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
        expected = [predictor(image)["instances"] for image in images]
        passes, model = [], predictor.model
        monkeypatch.setattr(
            predictor, "model", lambda inputs: passes.append(len(inputs)) or model(inputs)
        )
        found = predictor.batch(iter(images))
        assert passes == [3, 1, 1]
        for image, result, single in zip(images, found, expected, strict=True):
            assert result["instances"].image_size == image.shape[:2]
            torch.testing.assert_close(result["instances"].scores, single.scores)
            torch.testing.assert_close(
                result["instances"].pred_boxes.tensor,
                single.pred_boxes.tensor,
                rtol=1e-4,
                atol=1e-2,
            )
            assert not result["instances"].scores.requires_grad

    def test_no_images(self, predictor):
        assert predictor.batch([]) == []

    def test_errors_say_which_image(self, predictor, image):
        with pytest.raises(ValueError, match=r"image 1 of the batch: .* 1 x 1 pixels"):
            predictor.batch([image, np.zeros((1, 1, 3), np.uint8)])
        with pytest.raises(TypeError, match="image 0 of the batch: .*NoneType"):
            predictor.batch([None, image])
        with pytest.raises(TypeError, match=r"one array of shape \(70, 90, 3\).*\[image\]"):
            predictor.batch(image)


class TestTensors:
    def test_rgb_tensors_are_images(self, predictor, image):
        tensor = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)
        expected = predictor(image)["instances"]
        assert_same(predictor(tensor)["instances"], expected)
        found = predictor.batch(tensor[None])
        assert len(found) == 1
        assert_same(found[0]["instances"], expected)
        with pytest.raises(TypeError, match=r"one tensor of shape \(3, 70, 90\).*\[image\]"):
            predictor.batch(tensor)


class TestPrecision:
    def test_16_bits_give_nearly_the_same(self, weights, predictor, image):
        low = LazyPredictor(NAME, weights, OVERRIDES, precision="bf16")
        assert isinstance(low.model, MixedPrecision) and low.cfg.test.precision == "bf16"
        found, expected = low(image)["instances"], predictor(image)["instances"]
        assert found.scores.dtype == expected.scores.dtype == torch.float32
        torch.testing.assert_close(found.scores[:20], expected.scores[:20], atol=0.01, rtol=0)
        assert not torch.equal(found.scores[:20], expected.scores[:20])

    def test_the_argument_comes_before_the_config(self, weights):
        override = [*OVERRIDES, "test.precision=bfloat16"]
        assert isinstance(LazyPredictor(NAME, weights, override).model, MixedPrecision)
        plain = LazyPredictor(NAME, weights, override, precision="float32")
        assert not isinstance(plain.model, MixedPrecision)

    @pytest.mark.parametrize(
        ("precision", "message"),
        [
            ("int8", "test.precision='int8' is unknown; expected float32, bf16"),
            ("fp16", "test.precision=float16 needs CUDA; on the CPU use test.precision=bfloat16"),
        ],
    )
    def test_what_the_device_cannot_do_is_refused(self, weights, precision, message):
        with pytest.raises(ValueError, match=message):
            LazyPredictor(NAME, weights, OVERRIDES, precision=precision)


class TestThreads:
    @pytest.mark.parametrize("views", [False, True])
    def test_results_are_those_of_one_thread(self, weights, views):
        settings = {"enabled": True, "scales": [48], "flip": False} if views else {}
        settings = [f"test.augmentation.{key}={value}" for key, value in settings.items()]
        overrides = [*OVERRIDES, *settings, "model.proposal_generator.post_nms_topk=[100,100]"]
        predictor = LazyPredictor(NAME, weights, overrides)
        draw = np.random.default_rng(2)
        sizes = [(70, 90), (40, 60), (60, 40), (64, 64)]
        images = [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
        expected = [predictor(image)["instances"] for image in images]
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(predictor, images))
        for one, other in zip(found, expected, strict=True):
            assert_same(one["instances"], other)


class TestImages:
    def test_grey_and_transparent_images_are_converted(self, predictor, image):
        grey = image[:, :, 0]
        expected = predictor(np.stack([grey] * 3, axis=2))["instances"]
        assert_same(predictor(grey)["instances"], expected)
        assert_same(predictor(grey[:, :, None])["instances"], expected)
        bgra = np.concatenate([image, image[:, :, :1]], axis=2)
        assert_same(predictor(bgra)["instances"], predictor(image)["instances"])

    def test_any_memory_layout_works(self, predictor, image):
        expected = predictor(image)["instances"]
        assert_same(predictor(np.asfortranarray(image))["instances"], expected)
        padded = np.zeros((140, 180, 3), np.uint8)
        padded[::2, ::2] = image
        assert_same(predictor(padded[::2, ::2])["instances"], expected)

    @pytest.mark.parametrize(
        ("bad", "error", "message"),
        [
            (None, TypeError, "NoneType.*cv2.imread"),
            ("street.jpg", TypeError, "type str, expected a uint8 NumPy array"),
            (torch.zeros(8, 8, 3, dtype=torch.uint8), ValueError, r"\(8, 8, 3\).*\(3, H, W\)"),
            (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ValueError, r"\(2, 3, 8, 8\).*batch\(\)"),
            (torch.zeros(3, 8, 8), TypeError, "dtype float32"),
            (np.zeros((8, 8, 3), np.float32), TypeError, r"dtype float32.*\(image \* 255\)"),
            (np.zeros((8, 8, 3), np.uint16), TypeError, "dtype uint16"),
            (np.zeros((8, 8, 3), bool), TypeError, "dtype bool"),
            (np.zeros((3, 80, 80), np.uint8), ValueError, r"\(3, 80, 80\).*channels last"),
            (np.zeros((8, 8, 2), np.uint8), ValueError, r"\(8, 8, 2\)"),
            (np.zeros((1, 8, 8, 3), np.uint8), ValueError, "one image"),
            (np.zeros(8, np.uint8), ValueError, r"\(8,\)"),
            (np.zeros((0, 0, 3), np.uint8), ValueError, "0 x 0 pixels"),
            (np.zeros((0, 8), np.uint8), ValueError, r"8 x 0 pixels \(width x height\)"),
            (np.zeros((1, 1, 3), np.uint8), ValueError, "1 x 1 pixels.*at least 2 x 2"),
            (np.zeros((1, 8, 3), np.uint8), ValueError, "8 x 1 pixels"),
            (np.zeros((2, 9000, 3), np.uint8), ValueError, "9000 x 2 pixels.*Crop"),
        ],
    )
    def test_other_arrays_are_refused(self, predictor, bad, error, message):
        with pytest.raises(error, match=message):
            predictor(bad)

    @pytest.mark.parametrize("shape", [(2, 2, 3), (2, 300, 3), (300, 3), (33, 31, 4)])
    def test_unusual_sizes_work(self, predictor, shape):
        instances = predictor(np.full(shape, 127, np.uint8))["instances"]
        assert instances.image_size == shape[:2]
        assert instances.pred_masks.shape[1:] == shape[:2]

    def test_bgr_is_passed_on_without_a_copy(self, image):
        assert np.shares_memory(as_bgr_uint8(image), image)


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
    assert moved.model.roi_heads.box_predictor.cls_score.out_features == 2 + 1
