"""Sparse R-CNN at reduced size: train, evaluate plainly and through the wrappers, predict."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from vit_adapter import LazyPredictor
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TINY = [
    "model.backbone.bottom_up.vit.embed_dim=96",
    "model.backbone.out_channels=32",
    "model.proposal_generator.num_proposals=10",
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
WRAPPERS = [
    "test.nms.iou_threshold=0.6",
    "test.augmentation.enabled=True",
    "test.augmentation.scales=[64]",
    "test.tiles.enabled=True",
    "test.tiles.size=[48,48]",
    "test.tiles.overlap=[16,16]",
]


def read_results(run: Path) -> dict[str, dict[str, float]]:
    return json.loads((run / "results.json").read_text())


def test_train_evaluate_and_predict(shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        *("--config-file", "coco/sparse_rcnn_vit_adapter_small_deit_3x", *TINY),
        f"data.train_json={shapes / 'annotations/instances_train.json'}",
        f"data.train_images={shapes / 'train'}",
        f"data.val_json={shapes / 'annotations/instances_val.json'}",
        f"data.val_images={shapes / 'val'}",
        f"train.output_dir={run}",
    ]
    main(command)
    entries = map(json.loads, (run / "metrics.json").read_text().splitlines())
    losses = [entry["total_loss"] for entry in entries if "total_loss" in entry]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    trained = read_results(run)
    assert set(trained) == {"bbox"} and math.isfinite(trained["bbox"]["AP"])

    evaluate = [*command, "--eval-only", f"train.init_checkpoint={run / 'model_final.pth'}"]
    for overrides in ([], WRAPPERS):
        (run / "results.json").unlink()
        main([*evaluate, *overrides])
        assert set(read_results(run)) == {"bbox"}
        if not overrides:
            assert read_results(run) == trained

    found = LazyPredictor(run)(np.zeros((50, 70, 3), np.uint8))["instances"]
    assert found.image_size == (50, 70) and 0 < len(found) <= 10
    assert found.get_fields().keys() == {"pred_boxes", "scores", "pred_classes"}
