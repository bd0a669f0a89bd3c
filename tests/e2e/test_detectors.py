"""Every kind of detector trains in two processes, evaluates and predicts."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from runs import losses, run_two_processes

from vit_adapter import LazyPredictor

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
COMMON = [
    "model.backbone.out_channels=32",
    "dataloader.train.mapper.augmentations.short_edges=[64]",
    "dataloader.test.mapper.augmentations.short_edges=[64]",
    "dataloader.train.total_batch_size=2",
    "train.device=cpu",
    "train.max_iter=2",
    "train.log_period=1",
]
# Quick-start configs, and what makes them small
DETECTORS = {
    "cascade_mask_rcnn_vit_adapter": [
        "model.backbone.bottom_up.vit.embed_dim=96",
        "model.proposal_generator.post_nms_topk=[50,20]",
        "model.roi_heads.box_heads.0.conv_norm=SyncBN",
        "model.roi_heads.box_predictors.2.test_score_thresh=0.0",
        "model.roi_heads.box_predictors.2.test_topk_per_image=5",
    ],
    "htc_vit_adapter": [
        "model.backbone.bottom_up.bottom_up.vit.embed_dim=96",
        *(f"model.roi_heads.mask_heads.{stage}.conv_dims=[32,32]" for stage in range(3)),
        "model.proposal_generator.post_nms_topk=[50,20]",
        "model.roi_heads.box_predictors.2.test_score_thresh=0.0",
        "model.roi_heads.box_predictors.2.test_topk_per_image=5",
    ],
    "sparse_rcnn_vit_adapter": [
        "model.backbone.bottom_up.vit.embed_dim=96",
        "model.proposal_generator.num_proposals=20",
        "model.roi_heads.test_topk_per_image=5",
    ],
}


@pytest.fixture(scope="module")
def outputs(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the output folder of each detector."""
    folder = tmp_path_factory.mktemp("detectors")
    run_two_processes(
        [
            [
                *("--config-file", f"quick_start/{name}_tiny_scratch", *COMMON, *options),
                f"data.train_json={shapes / 'annotations/instances_train.json'}",
                f"data.train_images={shapes / 'train'}",
                f"data.val_json={shapes / 'annotations/instances_val.json'}",
                f"data.val_images={shapes / 'val'}",
                f"train.output_dir={folder / name}",
            ]
            for name, options in DETECTORS.items()
        ]
    )
    return folder


@pytest.mark.parametrize("name", DETECTORS)
def test_train_in_two_processes_evaluate_and_predict(name: str, outputs: Path) -> None:
    run = outputs / name
    found = losses(run)
    assert len(found) == 2 and all(map(math.isfinite, found))
    assert json.loads((run / "results.json").read_text())["bbox"]["AP"] >= 0
    detections = LazyPredictor(run)(np.zeros((50, 70, 3), np.uint8))["instances"]
    assert len(detections) <= 5  # with random weights all boxes may lie outside the image
    assert detections.image_size == (50, 70)
