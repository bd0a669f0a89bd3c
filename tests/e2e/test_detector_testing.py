"""Views, soft-NMS and tiles: the same in ``--eval-only``, in prediction and in the demo."""

import json
from pathlib import Path

import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from tool_files import load_tool

from vit_adapter import LazyPredictor
from vit_adapter.config import build_model, load_config
from vit_adapter.data import read_image
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

VIEWS = ["test.augmentation.enabled=True", "test.augmentation.scales=[48,64]"]
SOFT = ["test.nms.method=gaussian"]
TILES = ["test.tiles.enabled=True", "test.tiles.size=[48,48]", "test.tiles.overlap=[16,16]"]


@pytest.fixture
def weights(command: list[str], tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = build_model(load_config(command[1], command[2:]))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def evaluated(command: list[str], weights: Path, folder: Path) -> list[dict]:
    """The detections of all images that ``train_net.py --eval-only`` writes."""
    folders = [f"train.output_dir={folder}", f"dataloader.evaluator.output_dir={folder}"]
    main([*command, "--eval-only", f"train.init_checkpoint={weights}", *folders])
    return json.loads((folder / "coco_instances_results.json").read_text())


def drawn(project_root: Path, command: list[str], weights: Path, folder: Path) -> list[Instances]:
    """The detections that ``demo.py`` draws, one entry for each image."""
    demo = load_tool("demo")
    found, draw = [], demo.draw_prediction

    def keep(image, prediction, metadata, threshold):
        found.append(prediction["instances"])
        return draw(image, prediction, metadata, threshold)

    demo.draw_prediction = keep
    assert demo.main([*command, "--weights", str(weights), "--output", str(folder)]) == 0
    return found


def comparable(results: list[dict]) -> list[tuple]:
    return [
        (*one["bbox"], one["score"], int(mask_util.area(one["segmentation"]))) for one in results
    ]


@pytest.mark.parametrize("overrides", [VIEWS, VIEWS + SOFT + TILES], ids=["views", "all"])
def test_all_programs_use_the_test_node_of_the_config(
    overrides: list[str],
    command: list[str],
    weights: Path,
    shapes: Path,
    tmp_path: Path,
    project_root: Path,
) -> None:
    command = [*command, *overrides]
    images = sorted((shapes / "val").glob("*.png"))
    predictor = LazyPredictor(command[1], weights, command[2:])
    predicted = [predictor(read_image(file))["instances"] for file in images]
    plain = LazyPredictor(command[1], weights, [*command[2:], "test=null"])(read_image(images[0]))
    assert len(predicted[0]) > 0
    assert predicted[0].get_fields().keys() == plain["instances"].get_fields().keys()
    assert comparable(as_json(predicted[:1])) != comparable(as_json([plain["instances"]]))
    written = evaluated(command, weights, tmp_path / "evaluation")
    assert comparable(written) == comparable(as_json(predicted))
    shown = drawn(project_root, command, weights, tmp_path / "pictures")
    assert comparable(as_json(shown)) == comparable(as_json(predicted))


def as_json(found: list[Instances]) -> list[dict]:
    """Detections as Detectron2's evaluator writes them."""
    return [row for one in found for row in instances_to_coco_json(one, 0)]
