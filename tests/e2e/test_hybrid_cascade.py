"""The hybrid task cascade with label maps: train in two processes, evaluate, predict."""

import json
from pathlib import Path

import numpy as np
import pytest
from runs import run_two_processes

from vit_adapter import LazyPredictor
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TINY = [
    "model.backbone.bottom_up.bottom_up.vit.embed_dim=96",
    "model.backbone.bottom_up.bottom_up.vit.depth=4",
    "model.backbone.bottom_up.bottom_up.vit.window_sizes=[14,14,14,0]",
    "model.backbone.bottom_up.bottom_up.interaction_indexes=[[0,0],[1,1],[2,2],[3,3]]",
    "model.backbone.bottom_up.bottom_up.mode=frozen",
    "model.backbone.out_channels=32",
    *(f"model.roi_heads.box_heads.{stage}.conv_dims=[32]" for stage in range(3)),
    *(f"model.roi_heads.box_heads.{stage}.fc_dims=[64]" for stage in range(3)),
    *(f"model.roi_heads.mask_heads.{stage}.conv_dims=[32,32]" for stage in range(3)),
    "model.roi_heads.batch_size_per_image=32",
    "model.proposal_generator.post_nms_topk=[50,20]",
    "dataloader.train.mapper.augmentations._target_=vit_adapter.data.resize",
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


def make_command(shapes: Path, run: Path) -> list[str]:
    return [
        *("--config-file", "coco/htc_vit_adapter_large_augreg_3x", *TINY),
        f"data.train_json={shapes / 'annotations/instances_train.json'}",
        f"data.train_images={shapes / 'train'}",
        f"data.val_json={shapes / 'annotations/instances_val.json'}",
        f"data.val_images={shapes / 'val'}",
        f"dataloader.train.dataset.label_root={shapes / 'stuff_train'}",
        f"train.output_dir={run}",
    ]


def test_two_processes(shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_two_processes([make_command(shapes, run)])
    assert "loss_sem_seg" in (run / "metrics.json").read_text()
    assert "bbox" in json.loads((run / "results.json").read_text())
    found = LazyPredictor(run)(np.zeros((50, 70, 3), np.uint8))["instances"]
    assert found.image_size == (50, 70) and len(found)


def test_a_missing_label_map_is_named(shapes: Path, tmp_path: Path) -> None:
    command = make_command(shapes, tmp_path / "run")
    (tmp_path / "labels").mkdir()
    for file in (shapes / "stuff_train").iterdir():
        if file.name != "000003.png":
            (tmp_path / "labels" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"1 of 6 images have no label map: .*000003\.png"):
        main([*command, f"dataloader.train.dataset.label_root={tmp_path / 'labels'}"])
