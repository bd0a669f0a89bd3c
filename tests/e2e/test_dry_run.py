"""``train_net.py --dry-run``: its report, its exit status, and what it leaves alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from vit_adapter.config.loading import load_config
from vit_adapter.config.model import build_model
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SEMANTIC = [
    *("--config-file", "quick_start/semantic_fpn_vit_adapter_tiny_scratch"),
    "model.backbone.bottom_up.vit.embed_dim=96",
    "model.backbone.out_channels=32",
    "model.sem_seg_head.conv_dims=32",
    "data.crop_size=[64,64]",
    "data.scale=[128,64]",
    "data.classes=[circle,square,triangle,speckle,stripes]",
]
PANOPTIC = [
    *("--config-file", "quick_start/mask2former_panoptic_vit_adapter_tiny_scratch"),
    "model.backbone.vit.embed_dim=96",
    "model.head.transformer_decoder.num_queries=10",
    "model.criterion.num_points=64",
    "dataloader.train.mapper.augmentations.short_edges=[64]",
]
TINY = ["dataloader.train.total_batch_size=2", "train.device=cpu", "train.seed=7"]
LABELS = {
    "semantic": {"labels": "semantic_{}"},
    "panoptic": {
        "panoptic_json": "annotations/panoptic_{}.json",
        "panoptic_pngs": "panoptic_{}",
    },
}


def dry_run(command: list[str], status: int) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--dry-run"])
    assert caught.value.code == status


def build_vit(command: list[str]) -> nn.Module:
    """The ViT of a command, which begins with ``--config-file NAME``."""
    return build_model(load_config(command[1], command[2:])).backbone.bottom_up.vit


def read_report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dry_run.json").read_text())


def test_detector(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    dry_run([*command, "train.epochs=12", "dataloader.train.num_workers=1"], status=0)
    assert sorted(file.name for file in run.iterdir()) == ["dry_run.jpg", "dry_run.json"]
    assert Image.open(run / "dry_run.jpg").size == (640 + 8 + 640, 640)  # two images
    report = read_report(run)
    assert report["ready"] and report["problems"] == []
    assert report["data"]["train"]["custom_train"]["images"] == 6
    assert report["data"]["val"]["custom_val"]["images"] == 3
    assert report["run"]["max_iter"] == 36 and report["run"]["epochs"] == 12
    assert report["model"]["parameters"] == report["model"]["trained"] > 1e5  # nothing is frozen
    assert report["memory"]["saved"] > 0 and report["time"]["timed_steps"] == 5
    shown = capsys.readouterr().out
    assert "36 iterations = 12.00 epochs of 6 images" in shown
    assert "Ready to train." in shown


@pytest.mark.parametrize(("task", "options"), [("semantic", SEMANTIC), ("panoptic", PANOPTIC)])
def test_segmentors(task: str, options: list[str], shapes: Path, tmp_path: Path) -> None:
    data = [
        f"data.{split}_{key}={shapes / file.format(split)}"
        for split in ("train", "val")
        for key, file in {**LABELS[task], "images": "{}"}.items()
    ]
    dry_run([*options, *TINY, *data, f"train.output_dir={tmp_path}"], status=0)
    report = read_report(tmp_path)
    assert sum(report["data"]["train"]["custom_train"]["classes"].values()) > 6
    assert report["memory"]["total"] > report["memory"]["saved"] > 0
    assert (tmp_path / "dry_run.jpg").is_file()


def test_frozen_weights_have_no_average_and_need_not_be_stored(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no picture today")

    monkeypatch.setattr("vit_adapter.engine.dry_run.run.draw_targets", fail)
    command = [*command, "train.model_ema.enabled=True", "train.freeze=[vit.blocks]"]
    dry_run(command, status=0)
    whole = read_report(tmp_path / "run")
    assert any("cannot be drawn: no picture today" in text for text in whole["warnings"])
    memory, model = whole["memory"], whole["model"]
    frozen = 4 * (model["parameters"] - model["trained"])
    others = memory["weights"] - memory["average_of_weights"] - frozen
    assert frozen > 100_000 and 0 <= others < 1000  # buffers that no checkpoint holds

    weights = tmp_path / "vit.pth"
    torch.save(build_vit(command).state_dict(), weights)
    stored = ["train.checkpointer.trained_only=True", f"train.vit_checkpoint={weights}"]
    dry_run([*command, *stored], status=0)
    part = read_report(tmp_path / "run")
    assert part["disk"]["checkpoint_bytes"] == whole["disk"]["checkpoint_bytes"] - frozen


def test_broken_data_give_status_1(
    command: list[str], shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    shutil.copytree(shapes / "train", images)
    broken = sorted(images.iterdir())[-1]
    broken.write_bytes(broken.read_bytes()[:200])
    dry_run([*command, f"data.train_images={images}"], status=1)
    (problem, *_) = read_report(tmp_path / "run")["problems"]
    assert broken.name in problem
    assert "Not ready to train" in capsys.readouterr().out


def test_unusable_data_give_status_1(command: list[str], shapes: Path, tmp_path: Path) -> None:
    content = json.loads((shapes / "annotations/instances_train.json").read_text())
    content["annotations"][0]["bbox"] = [500, 500, 5, 5]
    (tmp_path / "train.json").write_text(json.dumps(content))
    dry_run([*command, f"data.train_json={tmp_path / 'train.json'}"], status=1)
    (problem,) = read_report(tmp_path / "run")["problems"]
    assert "'bbox' lies outside the image" in problem


def test_mistake_gives_status_2(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    dry_run([*command, "train.init_checkpoint=nowhere.pth"], status=2)
    assert "nowhere.pth" in capsys.readouterr().err
    dry_run([*command, "--eval-only"], status=2)
    assert "leave out --eval-only" in capsys.readouterr().err


def test_diverging_steps_are_a_problem(command: list[str], tmp_path: Path) -> None:
    dry_run([*command, "optimizer.lr=1e12", "lr_multiplier.warmup_iters=0"], status=1)
    (problem,) = read_report(tmp_path / "run")["problems"]
    assert problem.startswith("A training step fails: ") and "Lower optimizer.lr" in problem


def test_earlier_run_stays(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    main([*command, "train.max_iter=2"])
    before = {file: file.read_bytes() for file in run.iterdir() if file.is_file()}
    dry_run([*command, "train.max_iter=2"], status=0)
    assert any("previous_run_<n>" in warning for warning in read_report(run)["warnings"])
    dry_run([*command, "train.max_iter=20", "--resume"], status=0)
    report = read_report(run)
    assert report["run"]["start_iter"] == 2 and report["time"]["timed_steps"] == 5
    assert {file: file.read_bytes() for file in before} == before
    main([*command, "train.max_iter=3", "--resume"])  # the report is no obstacle
    assert (run / "dry_run.json").is_file()


def test_one_process_stands_for_several(command: list[str], tmp_path: Path) -> None:
    batch = ["dataloader.train.total_batch_size=4", "train.accumulate=2"]
    dry_run([*command, *batch, "--num-gpus", "2"], status=0)
    report = read_report(tmp_path / "run")
    assert report["run"]["micro_batch"] == 1 and report["memory"]["images"] == 1
    # Those of the micro-batch before, and the copy that the processes exchange
    assert report["memory"]["gradients_kept"] == 2 * report["memory"]["gradients"]
