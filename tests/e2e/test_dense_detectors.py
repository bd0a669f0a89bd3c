"""ATSS and GFL: train, evaluate and predict, in one process and in two."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from runs import losses, run_two_processes

from vit_adapter import LazyPredictor
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TINY = [
    "model.backbone.bottom_up.vit.embed_dim=96",
    "model.backbone.out_channels=32",
    "model.head.conv_dims=[64]",
    "model.test_score_thresh=0.0",
    "dataloader.train.mapper.augmentations._target_=vit_adapter.data.resize",
    "dataloader.test.mapper.augmentations._target_=vit_adapter.data.resize",
    "dataloader.train.mapper.augmentations.short_edges=[64]",
    "dataloader.test.mapper.augmentations.short_edges=[64]",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.vit_checkpoint=",
    "train.device=cpu",
    "train.seed=7",
    "train.log_period=1",
    "train.eval_period=0",
    "train.max_iter=2",
]
CONFIGS = [
    f"{kind}_{backbone}_small_deit_3x"
    for kind in ("atss", "gfl")
    for backbone in ("vit_adapter", "vit")
]


def make_command(config: str, shapes: Path, run: Path) -> list[str]:
    return [
        *("--config-file", f"coco/{config}", *TINY, f"train.output_dir={run}"),
        f"data.train_json={shapes / 'annotations/instances_train.json'}",
        f"data.train_images={shapes / 'train'}",
        f"data.val_json={shapes / 'annotations/instances_val.json'}",
        f"data.val_images={shapes / 'val'}",
    ]


@pytest.mark.parametrize("config", CONFIGS)
def test_train_evaluate_and_predict(config: str, shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = make_command(config, shapes, run)
    main(command)
    assert len(losses(run)) == 2 and all(map(math.isfinite, losses(run)))
    trained = json.loads((run / "results.json").read_text())
    assert set(trained) == {"bbox"} and math.isfinite(trained["bbox"]["AP"])

    (run / "results.json").unlink()
    main([*command, "--eval-only", f"train.init_checkpoint={run / 'model_final.pth'}"])
    assert json.loads((run / "results.json").read_text()) == trained

    found = LazyPredictor(run)(np.zeros((50, 70, 3), np.uint8))["instances"]
    assert found.image_size == (50, 70) and len(found)
    assert found.get_fields().keys() == {"pred_boxes", "scores", "pred_classes"}


def test_two_processes(shapes: Path, tmp_path: Path) -> None:
    """No parameter is left without a gradient: DDP would fail in the second iteration."""
    configs = [config for config in CONFIGS if "vit_adapter" in config]
    commands = [make_command(config, shapes, tmp_path / config) for config in configs]
    run_two_processes(commands)
    for config in configs:
        assert len(losses(tmp_path / config)) == 2
