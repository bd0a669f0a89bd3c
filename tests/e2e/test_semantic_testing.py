"""Windows and several scales: the same after training, in ``--eval-only`` and in prediction."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_adapter import LazyPredictor
from vit_adapter.data import read_image
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

OVERRIDES = [
    "model.backbone.vit.embed_dim=96",
    "model.backbone.vit.depth=4",
    "model.backbone.interaction_indexes=[[0,0],[1,1],[2,2],[3,3]]",
    "model.backbone.conv_inplane=32",
    "data.crop_size=[64,64]",
    "data.scale=[128,64]",
    "data.test_scale=[128,64]",
    "data.classes=[circle,square,triangle,speckle,stripes]",
    "dataloader.train.total_batch_size=2",
    "train.device=cpu",
    "train.seed=7",
    "train.max_iter=1",
    "test.sliding_window={crop_size:[48,48],stride:[32,32]}",
    "test.multi_scale={enabled:True,scales:[0.5,1.25],flip:True}",
]


def test_all_commands_use_the_test_node_of_the_config(
    project_root: Path, shapes: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    folders = [
        f"data.{split}_{key}={shapes / folder.format(split)}"
        for split in ("train", "val")
        for key, folder in (("images", "{}"), ("labels", "semantic_{}"))
    ]
    config = str(project_root / "configs/quick_start/upernet_vit_adapter_tiny_scratch.py")
    main(["--config-file", config, *OVERRIDES, *folders, f"train.output_dir={run}"])
    trained = json.loads((run / "results.json").read_text())
    (run / "results.json").unlink()
    saved = str(run / "config.yaml")
    main(["--config-file", saved, "--eval-only", "--resume", f"train.output_dir={run}"])
    assert json.loads((run / "results.json").read_text()) == trained

    views = LazyPredictor(run)
    whole = LazyPredictor(run, overrides=["test=null"])
    right = total = 0
    for file in sorted((shapes / "val").glob("*.png")):
        labels = np.asarray(Image.open(shapes / "semantic_val" / file.name))
        image = read_image(file)
        scores = views(image)["sem_seg"]
        counted = labels != 255
        right += (scores.argmax(0).numpy() == labels)[counted].sum()
        total += counted.sum()
        assert not scores.allclose(whole(image)["sem_seg"].softmax(0), atol=1e-4)
    assert 100 * right / total == pytest.approx(trained["sem_seg"]["pACC"])
