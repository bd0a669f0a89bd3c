"""``train_net.py`` on folders of images and label maps: train, evaluate, predict."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from runs import losses

from vit_adapter import LazyPredictor, model_zoo
from vit_adapter.config.overrides import apply_overrides
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

CLASSES = ["circle", "square", "triangle", "speckle", "stripes"]
TINY = [
    "data.crop_size=[96,96]",  # larger than some images
    "data.scale=[128,64]",
    "data.test_scale=[128,64]",
    "dataloader.train.total_batch_size=2",
    "train.device=cpu",
    "train.seed=7",
    "train.log_period=1",
]
# A model of each kind, as small as possible
MODELS = {
    "semantic_fpn_vit_adapter": "model.backbone.bottom_up.vit.embed_dim=96 "
    "model.backbone.out_channels=32 model.sem_seg_head.conv_dims=32",
    "upernet_vit_adapter": "model.backbone.vit.embed_dim=96 model.sem_seg_head.main.channels=64 "
    "model.sem_seg_head.auxiliary.channels=64",
    "mask2former_vit_adapter": "model.backbone.vit.embed_dim=96",
}


@pytest.fixture
def command(project_root: Path, shapes: Path, tmp_path: Path, request: pytest.FixtureRequest):
    """A complete command line; its classes are read from a file."""
    (tmp_path / "classes.json").write_text(json.dumps({"classes": CLASSES}))
    folders = [
        f"data.{split}_{key}={shapes / folder.format(split)}"
        for split in ("train", "val")
        for key, folder in (("images", "{}"), ("labels", "semantic_{}"))
    ]
    config = project_root / f"configs/quick_start/{request.param}_tiny_scratch.py"
    return [
        *("--config-file", str(config), *TINY, *MODELS[request.param].split(), *folders),
        f"data.classes={tmp_path / 'classes.json'}",
        f"train.output_dir={tmp_path / 'run'}",
    ]


@pytest.mark.parametrize("command", MODELS, indirect=True)
def test_train_evaluate_and_predict(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    main([*command, "train.max_iter=2"])
    assert len(losses(run)) == 2 and all(map(math.isfinite, losses(run)))
    trained = json.loads((run / "results.json").read_text())["sem_seg"]
    assert 0 <= trained["mIoU"] <= 100
    assert {f"IoU-{name}" for name in CLASSES} <= set(trained)
    matrix = json.loads((run / "inference/confusion_matrix.json").read_text())
    pixels = np.array(matrix["pixels"])
    assert matrix["classes"] == CLASSES
    assert 100 * pixels.trace() / pixels.sum() == pytest.approx(trained["pACC"])
    assert len(list((run / "inference/pictures/0000002").glob("*.jpg"))) == 3  # of 3 images

    (run / "results.json").unlink()
    main([*command, "--eval-only", f"train.init_checkpoint={run / 'model_final.pth'}"])
    assert json.loads((run / "results.json").read_text())["sem_seg"] == trained

    predictor = LazyPredictor(run)  # the config has the class names, so no folders are needed
    assert predictor.metadata.stuff_classes == CLASSES
    assert len(predictor.metadata.stuff_colors) == len(CLASSES)
    scores = predictor(np.zeros((50, 70, 3), np.uint8))["sem_seg"]
    assert scores.shape == (len(CLASSES), 50, 70)


@pytest.mark.parametrize("command", ["semantic_fpn_vit_adapter"], indirect=True)
def test_epochs(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    main([*command, "train.epochs=2", "train.auto_scale_lr=True"])
    assert (
        "Schedule: 2 epochs of 6 images at batch 2 = 6 iterations; evaluation and checkpoint every "
        "3; lr 0.0005 x 2/4 = 0.00025; warm-up 0 iterations."
    ) in (run / "log.txt").read_text()
    entries = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert [entry["iteration"] for entry in entries if "sem_seg/mIoU" in entry] == [2, 6]
    rates = [entry["lr"] for entry in entries if "lr" in entry]
    assert rates == pytest.approx([0.00025 * (1 - i / 6) for i in range(6)])


@pytest.mark.parametrize("name", MODELS)
def test_images_without_pixels_that_count_are_no_error(name: str) -> None:
    """Losses and gradients of a batch without any label are finite."""
    cfg = model_zoo.get_config(f"quick_start/{name}_tiny_scratch")
    model = instantiate(apply_overrides(cfg, MODELS[name].split()).model)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    losses = model([{"image": image, "sem_seg": torch.full((64, 64), 255)}] * 2)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    grads = [param.grad for param in model.parameters() if param.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("command", ["semantic_fpn_vit_adapter"], indirect=True)
def test_labels_of_unnamed_classes(command: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"semantic_train/\d+\.png has the values .* 2 classes"):
        main([*command, "data.classes=[circle,square]"])
    assert not list((tmp_path / "run").glob("*.pth"))
