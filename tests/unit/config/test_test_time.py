"""The wrappers that a config's ``test`` node puts around a model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.evaluation import DatasetEvaluator
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter import LazyPredictor, model_zoo
from vit_adapter.config.test_time import wrap_for_testing
from vit_adapter.engine.evaluation import evaluate
from vit_adapter.test_time import MultiScaleFlip, SlidingWindow

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
    assert wrap_for_testing(OmegaConf.create({"test": nodes.pop("whole_images")}), model) is model
    for name, node in nodes.items():
        node.multi_scale.enabled = True
        cfg = OmegaConf.create({"test": node, "model": {"pixel_mean": [1.0, 2.0, 3.0]}})
        wrapped = wrap_for_testing(cfg, model)
        (crop, _), (stride, _) = wrapped.model.crop_size, wrapped.model.stride
        assert stride == (512 if crop == 896 else crop * 2 // 3)
        assert wrapped.flip and wrapped.scales[0] * 896 == pytest.approx(
            {"beit_896_padded": 640, "beitv2_896_padded": 800}.get(name, 448)
        )
        padded = {"beit_896_padded": (0, 0, 0), "beitv2_896_padded": (1, 2, 3)}.get(name)
        assert wrapped.model.pad_value == padded
