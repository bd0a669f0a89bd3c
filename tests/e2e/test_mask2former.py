"""``train_net.py`` with Mask2Former for instances and panoptic: train, evaluate, predict."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from vit_adapter import LazyPredictor
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TINY = [
    "model.backbone.vit.embed_dim=96",
    "model.head.transformer_decoder.num_queries=10",
    "model.criterion.num_points=64",
    "dataloader.train.total_batch_size=2",
    "train.device=cpu",
    "train.seed=7",
    "train.log_period=1",
    "train.max_iter=2",
    "train.clip_grad.enabled=True",
    "train.clip_grad.params.max_norm=0.01",
]
# Last part of each key of the data, and the path of a split
PANOPTIC = {
    "panoptic_json": "annotations/panoptic_{}.json",
    "panoptic_pngs": "panoptic_{}",
    "images": "{}",
}


def check_losses(run: Path) -> None:
    entries = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    losses = [entry["total_loss"] for entry in entries if "total_loss" in entry]
    assert len(losses) == 2 and all(map(math.isfinite, losses))


def test_instances(shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        *("--config-file", "quick_start/mask2former_instance_vit_adapter_tiny_scratch", *TINY),
        "dataloader.train.mapper.augmentations.short_edges=[64]",
        "dataloader.test.mapper.augmentations.short_edges=[64]",
        f"data.train_json={shapes / 'annotations/instances_train.json'}",
        f"data.train_images={shapes / 'train'}",
        f"data.val_json={shapes / 'annotations/instances_val.json'}",
        f"data.val_images={shapes / 'val'}",
        f"train.output_dir={run}",
    ]
    main(command)
    check_losses(run)
    trained = json.loads((run / "results.json").read_text())
    assert {"bbox", "segm"} <= set(trained) and trained["segm"]["AP"] >= 0

    (run / "results.json").unlink()
    main([*command, "--eval-only", f"train.init_checkpoint={run / 'model_final.pth'}"])
    assert json.loads((run / "results.json").read_text()) == trained

    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    instances = LazyPredictor(run)(image)["instances"]
    assert 0 < len(instances) <= 3 * 10 and instances.image_size == (50, 70)
    assert instances.pred_masks.shape[1:] == (50, 70)
    tiled = LazyPredictor(
        run,
        overrides=[
            "test.tiles.enabled=True",
            "test.tiles.size=[32,48]",
            "test.tiles.overlap=[8,8]",
        ],
    )
    assert tiled(image)["instances"].pred_masks.shape[1:] == (50, 70)


def test_panoptic(shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        *("--config-file", "quick_start/mask2former_panoptic_vit_adapter_tiny_scratch", *TINY),
        "model.object_mask_threshold=0.0",
        "model.overlap_threshold=0.0",
        "dataloader.train.mapper.augmentations.short_edges=[64]",
        "dataloader.test.mapper.augmentations.short_edges=[64]",
        *(
            f"data.{split}_{key}={shapes / path.format(split)}"
            for split in ("train", "val")
            for key, path in PANOPTIC.items()
        ),
        f"train.output_dir={run}",
    ]
    main(command)
    check_losses(run)
    trained = json.loads((run / "results.json").read_text())
    assert {"panoptic_seg", "bbox", "segm"} <= set(trained)
    assert 0 <= trained["panoptic_seg"]["PQ"] <= 100
    assert list((run / "inference/pictures").glob("*/*.jpg"))

    (run / "results.json").unlink()
    main([*command, "--eval-only", f"train.init_checkpoint={run / 'model_final.pth'}"])
    assert json.loads((run / "results.json").read_text()) == trained

    predictor = LazyPredictor(run)  # the config has the class names, so no files are needed
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    prediction = predictor(image)
    ids, segments = prediction["panoptic_seg"]
    assert ids.shape == (50, 70) and set(ids.unique().tolist()) - {0} == {s["id"] for s in segments}
    names = predictor.metadata.stuff_classes
    assert names == predictor.metadata.thing_classes
    assert all(s["category_id"] < len(names) for s in segments)
    assert all(
        s["isthing"] == (s["category_id"] in predictor.model.thing_classes) for s in segments
    )
    assert set(prediction["instances"].pred_classes.tolist()) <= set(predictor.model.thing_classes)
