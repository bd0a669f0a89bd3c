"""LazyPredictor: what it returns, and which images it takes."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image
from predictors import NAME, OVERRIDES, assert_same

from vit_adapter import LazyPredictor
from vit_adapter.predictor import as_bgr_uint8
from vit_adapter.test_time import MixedPrecision


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
            boxes, others = result["instances"].pred_boxes.tensor, single.pred_boxes.tensor
            distances = (boxes[:, None] - others).abs().amax(-1)
            nearest, index = distances.min(dim=1)  # almost equal scores may change places
            assert nearest.max() < 2e-2 and len(index.unique()) == len(others)
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
