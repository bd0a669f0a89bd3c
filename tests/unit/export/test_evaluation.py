"""An exported file in the place of a model, for evaluation."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from small_models import make_segmentor
from torch import nn

from vit_adapter.config.errors import UsageError
from vit_adapter.config.loading import load_config
from vit_adapter.export.evaluation import FileModel, check_data, config_with_data
from vit_adapter.export.formats import FORMATS
from vit_adapter.export.models import exportable
from vit_adapter.export.shapes import ImageShapes


@torch.no_grad()
@pytest.mark.parametrize(
    "shapes",
    [
        ImageShapes(1, 64, 96, dynamic_size=True, dynamic_batch=True),
        ImageShapes(2, 64, 96),  # also the batch is filled up
    ],
)
def test_predicts_as_the_model(shapes: ImageShapes) -> None:
    model = make_segmentor()
    core = exportable(model)
    batches = []

    def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        batches.append(tuple(images.shape))
        return core(images)

    image = (255 * torch.rand(3, 64, 90)).to(torch.uint8)
    inputs = {"image": image, "height": 32, "width": 45}
    (output,) = FileModel(core, run, shapes)([inputs])
    torch.testing.assert_close(output["sem_seg"], model([inputs])[0]["sem_seg"])
    assert batches == [(shapes.batch, 3, 64, 96)]


def test_images_that_do_not_fit_are_refused() -> None:
    core = exportable(make_segmentor())
    model = FileModel(core, core, ImageShapes(1, 64, 64))
    with pytest.raises(UsageError, match="65 x 64 pixels .* does not fit"):
        model([{"image": torch.zeros(3, 65, 64)}])


class Rectified(nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (images.relu(),)


def test_loaded_programs_go_through_the_modes_of_an_evaluation(tmp_path: Path) -> None:
    core = exportable(make_segmentor())
    program = torch.export.export(Rectified(), (torch.rand(1, 3, 64, 64),))
    FORMATS["pt2"].write(program, ["logits"], tmp_path / "model.pt2")
    run = FORMATS["pt2"].load(tmp_path / "model.pt2")
    model = FileModel(core, run, ImageShapes(1, 64, 64)).train().eval()
    image = torch.rand(3, 64, 64)
    torch.testing.assert_close(model([{"image": image}])[0]["sem_seg"], image)


@pytest.fixture
def data(tmp_path: Path) -> DictConfig:
    """The config of own semantic data: two images, in three classes."""
    generator = np.random.default_rng(0)
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 48:] = 1
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for name in ("a.png", "b.png"):
            pixels = generator.integers(0, 255, (64, 64, 3), np.uint8)
            cv2.imwrite(str(tmp_path / folder / name), pixels if folder == "images" else labels)
    paths = [f"data.val_{folder}={tmp_path / folder}" for folder in ("images", "labels")]
    overrides = [*paths, "data.classes=[x,y,z]", "data.test_scale=[64,64]"]
    return load_config("quick_start/upernet_vit_adapter_tiny_scratch", overrides)


def test_evaluates_file_and_model_on_own_data(data: DictConfig) -> None:
    core = exportable(make_segmentor())
    shapes = ImageShapes(1, 64, 64)
    cfg = config_with_data(data)
    compared = check_data(cfg, core.model, FileModel(core, core, shapes))
    before, after = compared["sem_seg"]["mIoU"]
    assert before == after > 0
    assert compared["sem_seg"].keys() >= {"IoU-x", "pACC"}

    def run_wrong(images: torch.Tensor) -> list[torch.Tensor]:
        return [output.roll(1, dims=1) for output in core(images)]

    with pytest.raises(
        UsageError, match=r"mIoU of sem_seg is .* expected a difference of at most 0\.1"
    ):
        check_data(cfg, core.model, FileModel(core, run_wrong, shapes))


def test_data_are_needed(data: DictConfig) -> None:
    data.dataloader.evaluator = None
    with pytest.raises(UsageError, match="no test data or no evaluator; leave out --check-data"):
        config_with_data(data)
