"""A run that is stopped and resumed ends with the same bits as one that is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from pycocotools import mask as masks

from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.checkpoint.run_files import LAST_CHECKPOINT, checkpoint_name
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

STOP, END = 3, 5  # iterations
COMMON = [
    f"train.max_iter={END}",
    f"train.checkpointer.period={STOP}",
    "train.device=cpu",
    "train.log_period=1",
    "data.val_images=",
]
SEMANTIC = [
    *("--config-file", "quick_start/semantic_fpn_vit_adapter_tiny_scratch"),
    "model.backbone.bottom_up.vit.embed_dim=96",
    "model.backbone.bottom_up.vit.drop_path_rate=0.3",
    "model.backbone.out_channels=32",
    "model.sem_seg_head.conv_dims=32",
    "data.crop_size=[64,64]",
    "data.scale=[128,64]",
    "data.classes=[circle,square,triangle,speckle,stripes]",
    "dataloader.train.total_batch_size=2",
]


def add_borders(shapes: Path, folder: Path) -> None:
    """Copy the training images with borders at the bottom or on the right, or none."""
    content = json.loads((shapes / "annotations/instances_train.json").read_text())
    borders = {}
    for image, number in zip(content["images"], [0, 1, 2, 2, 1, 2], strict=True):
        bottom, right = borders[image["id"]] = (20 * (number == 1), 20 * (number == 2))
        with Image.open(shapes / "train" / image["file_name"]) as pixels:
            ImageOps.expand(pixels, (0, 0, right, bottom)).save(folder / image["file_name"])
        image["height"] += bottom
        image["width"] += right
    for annotation in content["annotations"]:
        if isinstance(annotation["segmentation"], dict):  # run lengths of the whole image
            pixels = masks.decode(annotation["segmentation"])
            padding = [(0, border) for border in borders[annotation["image_id"]]]
            code = masks.encode(np.asfortranarray(np.pad(pixels, padding)))
            annotation["segmentation"] = code | {"counts": code["counts"].decode()}
    (folder / "train.json").write_text(json.dumps(content))


@pytest.fixture
def detector(command: list[str], shapes: Path, tmp_path: Path) -> list[str]:
    """Mask R-CNN with drop path and sampled regions, on images of several shapes."""
    images = tmp_path / "images"
    images.mkdir()
    add_borders(shapes, images)
    return [
        *command,
        *COMMON,
        f"data.train_json={images / 'train.json'}",
        f"data.train_images={images}",
        "data.val_json=",
        "model.backbone.bottom_up.vit.drop_path_rate=0.3",
        "model.proposal_generator.batch_size_per_image=8",
        "model.roi_heads.batch_size_per_image=8",
    ]


@pytest.fixture
def segmentor(shapes: Path) -> list[str]:
    """Semantic FPN with a seed that each start would draw anew."""
    return [
        *SEMANTIC,
        *COMMON,
        "train.seed=-1",
        f"data.train_images={shapes / 'train'}",
        f"data.train_labels={shapes / 'semantic_train'}",
        "data.val_labels=",
    ]


def train(command: list[str], folder: Path, *, num_workers: int = 0, resume: bool = False) -> None:
    workers = f"dataloader.train.num_workers={num_workers}"
    main([*command, workers, f"train.output_dir={folder}", *["--resume"] * resume])


def stop(run: Path, copy: Path) -> None:
    """Copy what the run had written when it had done ``STOP`` of its iterations."""
    copy.mkdir()
    name = f"{checkpoint_name(STOP - 1)}.pth"
    shutil.copy(run / name, copy)
    (copy / LAST_CHECKPOINT).write_text(name)
    # With a further line, as of a run that is killed later.
    lines = (run / "metrics.json").read_text().splitlines(keepends=True)
    (copy / "metrics.json").write_text("".join(lines[: STOP + 1]))


def compare(one: object, other: object, name: str = "") -> None:
    """Compare all tensors and numbers of two checkpoints bit for bit."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), name
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys(), name
        for key, value in one.items():
            compare(value, other[key], f"{name}.{key}")
    elif isinstance(one, Sequence) and not isinstance(one, str):
        assert len(one) == len(other), name
        for index, value in enumerate(one):
            compare(value, other[index], f"{name}.{index}")
    else:
        assert one == other, name


def iterations(folder: Path) -> list[int]:
    entries = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return [entry["iteration"] for entry in entries if "total_loss" in entry]


@pytest.mark.parametrize("model", ["detector", "segmentor"])
def test_resumed_runs_equal_the_unbroken_run(
    model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    command = request.getfixturevalue(model)
    whole = tmp_path / "whole"
    train(command, whole)
    expected = load_checkpoint_file(whole / "model_final.pth")
    assert {"model", "trainer"} <= expected.keys()
    assert expected["trainer"]["optimizer"]["state"]
    for num_workers in (0, 2):
        resumed = tmp_path / f"resumed_{num_workers}"
        stop(whole, resumed)
        train(command, resumed, num_workers=num_workers, resume=True)
        compare(load_checkpoint_file(resumed / "model_final.pth"), expected)
        assert iterations(resumed) == list(range(END))
