"""The wrappers that a config's ``test`` node puts around a model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L, LazyConfig
from detectron2.evaluation import DatasetEvaluator
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from vit_adapter import LazyPredictor, model_zoo
from vit_adapter.config import UsageError, build_model, load_config
from vit_adapter.config.test_time import loader_for_testing, wrap_for_testing
from vit_adapter.engine.evaluation import evaluate
from vit_adapter.test_time import (
    DetectorTiles,
    DetectorViews,
    GraphedModel,
    MultiScaleFlip,
    SlidingWindow,
    Suppression,
)

IMAGE = torch.arange(3 * 12 * 20, dtype=torch.uint8).reshape(3, 12, 20)
WINDOW = {"crop_size": [8, 8], "stride": [5, 5]}
MULTI_SCALE = {"enabled": True, "scales": [1.0, 1.5], "flip": True}


class MeanModel(nn.Module):
    """A model whose scores depend on the whole image that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.01))

    def forward(self, batch: list[dict]) -> list[dict]:
        (inputs,) = batch
        size = (inputs["height"], inputs["width"])
        image = nn.functional.interpolate(inputs["image"][None].float(), size=size)[0]
        return [{"sem_seg": self.weight * (image - image.mean())}]


class KeepingEvaluator(DatasetEvaluator):
    """Returns the scores of the last image."""

    def process(self, inputs: list, outputs: list) -> None:
        self.scores = outputs[-1]["sem_seg"]

    def evaluate(self) -> dict[str, dict[str, float]]:
        return {"sem_seg": {str(i): float(v) for i, v in enumerate(self.scores.flatten())}}


def resize_nothing() -> list:
    return []


def load_image(mapper: object = None) -> list[list[dict]]:
    return [[{"image": IMAGE, "height": 12, "width": 20}]]


def make_config(test: dict | None, output_dir: str = "") -> DictConfig:
    cfg = {
        "model": L(MeanModel)(),
        "dataloader": {
            "test": L(load_image)(
                mapper={"augmentations": L(resize_nothing)(), "image_format": "RGB"}
            ),
            "evaluator": L(KeepingEvaluator)(),
        },
        "train": {"output_dir": output_dir, "device": "cpu"},
    }
    if test is not None:
        cfg["test"] = test
    return OmegaConf.create(cfg, flags={"allow_objects": True})


@pytest.mark.parametrize(
    "test",
    [
        None,
        {},
        {"sliding_window": None, "multi_scale": None},
        {"multi_scale": {**MULTI_SCALE, "enabled": False}},
    ],
)
def test_nothing_is_wrapped_unless_asked_for(test: dict | None) -> None:
    model = MeanModel()
    assert wrap_for_testing(make_config(test), model) is model


def test_wrappers_have_the_arguments_of_the_config() -> None:
    model = MeanModel()
    windows = wrap_for_testing(make_config({"sliding_window": WINDOW}), model)
    assert isinstance(windows, SlidingWindow) and windows.model is model
    assert (windows.crop_size, windows.stride) == ((8, 8), (5, 5))
    views = wrap_for_testing(make_config({"multi_scale": MULTI_SCALE}), model)
    assert isinstance(views, MultiScaleFlip) and views.model is model
    assert (views.scales, views.flip, views.min_side) == ((1.0, 1.5), True, 1)
    both = {"sliding_window": WINDOW, "multi_scale": MULTI_SCALE}
    views = wrap_for_testing(make_config(both), model)
    assert isinstance(views.model, SlidingWindow) and views.min_side == 8
    both["multi_scale"] = {**MULTI_SCALE, "min_side": 1}
    assert wrap_for_testing(make_config(both), model).min_side == 1


def test_default_limits_are_those_of_a_single_scale() -> None:
    cfg = make_config({"multi_scale": MULTI_SCALE})
    assert wrap_for_testing(cfg, MeanModel()).limits is None
    cfg.data = {"test_scale": [64, 32]}
    assert wrap_for_testing(cfg, MeanModel()).limits == (64, 32)
    cfg.test.multi_scale.limits = [9, 128]
    assert wrap_for_testing(cfg, MeanModel()).limits == (128, 9)


@pytest.mark.parametrize(
    ("test", "error", "message"),
    [
        ({"windows": WINDOW}, ValueError, r"keys \['windows'\]; expected sliding_window"),
        ({"sliding_window": {**WINDOW, "stride": [9, 9]}}, ValueError, "pixels are left out"),
        ({"multi_scale": {**MULTI_SCALE, "scales": []}}, ValueError, "scales must be one or more"),
        ({"sliding_window": {**WINDOW, "step": 1}}, TypeError, "step"),
    ],
)
def test_unusable_nodes_are_refused(test: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        wrap_for_testing(make_config(test), MeanModel())


@pytest.mark.parametrize("test", [{"sliding_window": WINDOW}, {"multi_scale": MULTI_SCALE}])
def test_only_semantic_scores_are_averaged(test: dict) -> None:
    cfg = make_config(test)
    cfg.task = {"name": "panoptic"}
    with pytest.raises(UsageError, match="are for semantic models, .* the task 'panoptic'; omit"):
        wrap_for_testing(cfg, MeanModel())
    cfg.test = {"multi_scale": {**MULTI_SCALE, "enabled": False}}
    model = MeanModel()
    assert wrap_for_testing(cfg, model) is model


@pytest.mark.parametrize(
    "test",
    [None, {"sliding_window": WINDOW}, {"sliding_window": WINDOW, "multi_scale": MULTI_SCALE}],
    ids=["whole", "windows", "both"],
)
def test_evaluation_and_prediction_use_the_same_wrappers(test: dict | None, tmp_path: Path) -> None:
    cfg = make_config(test, str(tmp_path))
    model = MeanModel().train()
    with torch.no_grad():
        (expected,) = wrap_for_testing(cfg, model).eval()(load_image()[0])
    model.train()
    results = evaluate(cfg, model)["sem_seg"]
    assert model.training
    assert list(results.values()) == pytest.approx(expected["sem_seg"].flatten().tolist())
    bgr = np.ascontiguousarray(IMAGE.numpy().transpose(1, 2, 0)[:, :, ::-1])
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    predictor = LazyPredictor(cfg, tmp_path / "model.pth")
    torch.testing.assert_close(predictor(bgr)["sem_seg"], expected["sem_seg"])


def test_common_nodes_can_be_built_and_keep_the_ratio_of_the_original() -> None:
    model = MeanModel()
    nodes = model_zoo.get_config("common/testing")
    for name in ("plain", "whole_images"):
        assert wrap_for_testing(OmegaConf.create({"test": nodes.pop(name)}), model) is model
    for name, node in nodes.items():
        node.multi_scale.enabled = True
        cfg = OmegaConf.create({"test": node, "model": {"pixel_mean": [1.0, 2.0, 3.0]}})
        wrapped = wrap_for_testing(cfg, model)
        (crop, _), (stride, _) = wrapped.model.crop_size, wrapped.model.stride
        if name == "dinov3_896":
            assert (crop, stride, wrapped.model.square_if_small) == (896, 596, True)
            assert wrapped.view_sizes(448, 448) == [(s, s) for s in (832, 864, 896, 940, 985)]
            continue
        assert stride == (512 if crop == 896 else crop * 2 // 3)
        assert wrapped.flip and wrapped.scales[0] * 896 == pytest.approx(
            {"beit_896_padded": 640, "beitv2_896_padded": 800}.get(name, 448)
        )
        padded = {"beit_896_padded": (0, 0, 0), "beitv2_896_padded": (1, 2, 3)}.get(name)
        assert wrapped.model.pad_value == padded


DETECTOR = "quick_start/mask_rcnn_vit_adapter_shapes"
# All random boxes count, so that an untrained model has predictions.
ALL_BOXES = "model.roi_heads.box_predictor.test_score_thresh=0.0"
VIEWS = ["test.augmentation.enabled=True", "test.augmentation.scales=[48,64]"]
TILES = ["test.tiles.enabled=True", "test.tiles.size=[64,64]", "test.tiles.overlap=[16,16]"]
SOFT = ["test.nms.method=gaussian"]


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    torch.manual_seed(0)
    return build_model(load_config(DETECTOR, ["train.device=cpu"])).eval()


def test_detectors_are_not_wrapped_unless_asked_for(detector: nn.Module) -> None:
    cfg = load_config(DETECTOR)
    assert wrap_for_testing(cfg, detector) is detector
    assert loader_for_testing(cfg) is cfg.dataloader.test


def test_wrappers_of_detectors_have_the_arguments_of_the_config(detector: nn.Module) -> None:
    soft = wrap_for_testing(load_config(DETECTOR, SOFT), detector)
    assert isinstance(soft, DetectorViews) and soft.model is detector and soft.scales is None
    assert soft.nms == Suppression(method="gaussian")
    views = wrap_for_testing(load_config(DETECTOR, VIEWS), detector)
    assert isinstance(views, DetectorViews) and views.model is detector
    assert (views.scales, views.max_size, views.flip) == ((48, 64), 640, True)
    assert views.nms.is_own
    tiles = wrap_for_testing(load_config(DETECTOR, TILES), detector)
    assert isinstance(tiles, DetectorTiles) and tiles.model is detector
    assert (tiles.size, tiles.overlap) == ((64, 64), (16, 16))
    every = wrap_for_testing(load_config(DETECTOR, [*SOFT, *VIEWS, *TILES]), detector)
    assert isinstance(every, DetectorTiles) and isinstance(every.model, DetectorViews)
    assert every.model.nms == soft.nms and every.model.model is detector


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["+test.nms.sigmas=1"],
            r"test.nms has .* \['sigmas'\]; expected method, iou",
        ),
        (["test.nms.method=soft"], "test.nms: method must be hard, linear or gaussian, got 'soft'"),
        (
            [*VIEWS, "+test.augmentation.limits=1"],
            r"test.augm.* \['limits'\]; expected scales",
        ),
        ([*VIEWS, "test.augmentation.max_size=9"], "test.augmentation: max_size must be at least"),
        (
            [*TILES, "+test.tiles.stride=9"],
            r"test.tiles .* \['stride'\]; expected size, over",
        ),
        ([*TILES, "test.tiles.overlap=[64,0]"], "test.tiles: overlap must be at least 0 and less"),
        ([*TILES, "dataloader.test.mapper=null"], "no dataloader.test.mapper.augmentations"),
        (
            [*VIEWS, "+test.sliding_window.crop_size=[8,8]", "+test.sliding_window.stride=[8,8]"],
            "test.sliding_window and test.multi_scale are for semantic models",
        ),
    ],
)
def test_unusable_nodes_of_detectors_are_usage_errors(
    overrides: list[str], message: str, detector: nn.Module
) -> None:
    with pytest.raises(UsageError, match=message):
        wrap_for_testing(load_config(DETECTOR, overrides), detector)


class KeepingInstances(DatasetEvaluator):
    def process(self, inputs: list, outputs: list) -> None:
        self.found = outputs[-1]["instances"]

    def evaluate(self) -> dict[str, dict[str, float]]:
        values = [*self.found.scores.tolist(), *self.found.pred_boxes.tensor.flatten().tolist()]
        areas = self.found.pred_masks.flatten(1).sum(1).tolist()
        return {"bbox": {str(i): float(v) for i, v in enumerate([*values, *areas])}}


@pytest.mark.parametrize("overrides", [SOFT, VIEWS, TILES, [*SOFT, *VIEWS, *TILES]])
def test_evaluation_and_prediction_treat_detectors_alike(
    overrides: list[str], detector: nn.Module, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(image[:, :, ::-1]).save(tmp_path / "image.png")
    cfg = load_config(DETECTOR, [*overrides, ALL_BOXES, "train.device=cpu"])
    cfg.train.output_dir = str(tmp_path)
    torch.save({"model": detector.state_dict()}, tmp_path / "model.pth")
    predictor = LazyPredictor(cfg, tmp_path / "model.pth")
    found = predictor(image)["instances"]
    assert len(found) > 0 and found.image_size == (70, 90)
    record = {"file_name": str(tmp_path / "image.png"), "height": 70, "width": 90}
    cfg.dataloader.test.dataset = [record]
    cfg.dataloader.evaluator = L(KeepingInstances)()
    model = build_model(cfg)
    model.load_state_dict(detector.state_dict())
    expected = KeepingInstances()
    expected.process([], [{"instances": found}])
    assert evaluate(cfg, model) == expected.evaluate()


def test_saved_configs_without_a_test_node_can_be_used(detector: nn.Module, tmp_path: Path) -> None:
    cfg = load_config(DETECTOR, [ALL_BOXES, "train.device=cpu"])
    del cfg.test
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    torch.save({"model": detector.state_dict()}, tmp_path / "model.pth")
    arguments = (tmp_path / "config.yaml", tmp_path / "model.pth")
    predictor = LazyPredictor(*arguments)
    assert type(predictor.model) is type(detector)
    added = [f"+{override}" for override in TILES]
    tiles = LazyPredictor(*arguments, overrides=added)
    assert isinstance(tiles.model, DetectorTiles)
    image = np.zeros((70, 90, 3), np.uint8)
    for one in (predictor, tiles):
        assert one(image)["instances"].image_size == (70, 90)


def test_the_views_of_htc_are_the_originals(detector: nn.Module) -> None:
    nodes = model_zoo.get_config("common/detector_testing")
    for name, max_size in (("htc", 3000), ("htc_augreg", 1600)):
        cfg = OmegaConf.create({"test": nodes[name], "dataloader": {"test": {"mapper": {}}}})
        cfg.test.augmentation.enabled = True
        views = wrap_for_testing(cfg, detector)
        assert views.scales == (600, 800, 1000, 1200, 1400, 1600) and views.max_size == max_size
        assert views.flip and views.max_detections == 1000
        assert views.nms == Suppression(method="linear", min_score=0.001)
        # the areas of one object of each size: small, medium, large
        sizes = [
            "".join(
                letter
                for letter, area in zip("sml", (32**2, 96**2, 96**2 + 1), strict=True)
                if (low or 0) < area <= (high or 1e9)
            )
            for low, high in views.area_ranges
        ]
        assert sizes == ["l", "l", "ml", "sm", "sm", "sm"]


def test_a_graph_for_the_core_of_a_model() -> None:
    cfg = load_config("quick_start/atss_vit_adapter_tiny_scratch", ["train.device=cpu"])
    model = build_model(cfg)
    assert not isinstance(wrap_for_testing(cfg, model), GraphedModel)
    cfg.test.graph = "compile"
    assert isinstance(wrap_for_testing(cfg, model), GraphedModel)


@pytest.mark.parametrize(
    ("graph", "message"),
    [("fast", "expected none, compile or cuda_graph"), ("cuda_graph", "needs CUDA")],
)
def test_graphs_that_cannot_run(graph: str, message: str) -> None:
    cfg = OmegaConf.create({"test": {"graph": graph}, "train": {"device": "cpu"}})
    with pytest.raises(UsageError, match=message):
        wrap_for_testing(cfg, MeanModel())


def test_a_graph_needs_a_core() -> None:
    cfg = OmegaConf.create({"test": {"graph": "compile"}, "train": {"device": "cpu"}})
    with pytest.raises(UsageError, match=r"test\.graph: MeanModel has no core"):
        wrap_for_testing(cfg, MeanModel())
