"""``train_net.py`` with the output of a frozen ViT on disk: each kind of model, two processes."""

from pathlib import Path

import pytest
from runs import losses, run_two_processes

from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

CACHE = ["train.feature_cache.views=1", "train.max_iter=6"]  # two passes over 6 images
SEMANTIC = [
    "data.crop_size=[96,96]",
    "data.scale=[128,64]",
    "data.test_scale=[128,64]",
    "dataloader.train.total_batch_size=2",
    "train.device=cpu",
    "train.seed=7",
    "train.log_period=1",
    "data.classes=[circle,square,triangle,speckle,stripes]",
]
MODELS = {
    "semantic_fpn": [
        "model.backbone.bottom_up.mode=frozen",
        "model.backbone.bottom_up.vit.embed_dim=96",
        "model.backbone.out_channels=32",
        "model.sem_seg_head.conv_dims=32",
    ],
    "mask2former": [
        "model.backbone.mode=frozen",
        "model.backbone.vit.embed_dim=96",
        "model.head.transformer_decoder.num_queries=10",
        "model.criterion.num_points=64",
    ],
}


def check_losses(command: list[str], tmp_path: Path) -> None:
    """Train without a cache, while it is written, and while it is read."""
    folder = f"train.feature_cache.dir={tmp_path / 'cache'}"
    results, logs = [], []
    for run, options in {"without": [], "writes": [folder], "reads": [folder]}.items():
        main([*command, *CACHE, *options, f"train.output_dir={tmp_path / run}"])
        results.append(losses(tmp_path / run))
        logs.append((tmp_path / run / "log.txt").read_text())
    assert len(results[0]) == 6 and results[0] == results[1] == results[2]
    assert "6 images x 1 views take about" in logs[1]
    assert "6 views were read and 6 were computed" in logs[1]
    assert "12 views were read and 0 were computed" in logs[2]


@pytest.mark.parametrize("name", MODELS)
def test_semantic_models(name: str, shapes: Path, tmp_path: Path) -> None:
    command = [
        *("--config-file", f"quick_start/{name}_vit_adapter_tiny_scratch"),
        *(*SEMANTIC, *MODELS[name]),
        *(f"data.train_images={shapes / 'train'}", f"data.val_images={shapes / 'val'}"),
        f"data.train_labels={shapes / 'semantic_train'}",
        f"data.val_labels={shapes / 'semantic_val'}",
    ]
    check_losses(command, tmp_path)


def test_detector(command: list[str], tmp_path: Path) -> None:
    check_losses([*command, "model.backbone.bottom_up.mode=frozen"], tmp_path)


def test_two_processes_share_a_folder(command: list[str], tmp_path: Path) -> None:
    folder = f"train.feature_cache.dir={tmp_path / 'cache'}"
    command = [*command, *CACHE, "model.backbone.bottom_up.mode=frozen"]
    command += ["dataloader.train.num_workers=1"]
    runs = {"without": [], "writes": [folder], "reads": [folder]}
    run_two_processes(
        [
            [*command, *options, f"train.output_dir={tmp_path / run}"]
            for run, options in runs.items()
        ]
    )
    results = [losses(tmp_path / run) for run in runs]
    assert len(results[0]) == 6 and results[0] == results[1] == results[2]
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 6


def test_the_mode_is_checked(command: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, *CACHE])
    assert caught.value.code == 2
    assert "Use model.backbone.bottom_up.mode=frozen" in capfd.readouterr().err
