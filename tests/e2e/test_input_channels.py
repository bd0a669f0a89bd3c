"""``train_net.py`` on images of five channels and 16 bits: from the training to the predictor."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_adapter import LazyPredictor
from vit_adapter.checkpoint import CheckpointMismatchError
from vit_adapter.config.loading import load_config
from vit_adapter.data import read_image
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_training_evaluation_and_prediction(
    command: list[str], shapes: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for split in ("train", "val"):
        file = shapes / f"annotations/instances_{split}.json"
        content = json.loads(file.read_text())
        (tmp_path / split).mkdir()
        for entry in content["images"]:
            rgb = np.asarray(Image.open(shapes / split / entry["file_name"])).astype(np.uint16)
            entry["file_name"] = entry["file_name"].replace(".png", ".npy")
            five = np.concatenate([16 * rgb, 9000 - rgb[..., :2]], axis=2)
            np.save(tmp_path / split / entry["file_name"], five.transpose(2, 0, 1))
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    command = [
        *command,
        *(f"data.{split}_json={tmp_path / split}.json" for split in ("train", "val")),
        *(f"data.{split}_images={tmp_path / split}" for split in ("train", "val")),
        "train.eval_pictures=1",
    ]
    five = [*command, "model.input_channels=5"]
    with pytest.raises(SystemExit, match="0"):
        main([*five, "--dry-run"])
    assert not json.loads((run / "dry_run.json").read_text())["problems"]
    assert Image.open(run / "dry_run.jpg").size[0] > 100
    main([*five, "train.max_iter=2"])
    saved = load_config(run).model
    assert len(saved.pixel_mean) == 5 and saved.pixel_mean[4] > 8700
    pictures = list(run.glob("inference/pictures/*/*.jpg"))
    assert pictures and "cannot be drawn" not in (run / "log.txt").read_text()
    trained = json.loads((run / "results.json").read_text())
    main(["--config-file", str(run), "--eval-only", f"train.output_dir={tmp_path / 'evaluated'}"])
    assert json.loads((tmp_path / "evaluated/results.json").read_text()) == trained

    predictor = LazyPredictor(run)
    assert predictor.image_format == 5
    image = read_image(next((tmp_path / "val").iterdir()), predictor.image_format)
    for given in (image, image.transpose(2, 0, 1), image.astype(np.uint16)):
        assert predictor(given)["instances"].image_size == (64, 64)
    with pytest.raises(ValueError, match=r"the image has shape \(64, 64, 3\) and type float32, "):
        predictor(image[..., :3])
    with pytest.raises(ValueError, match="the image has 1 values that are NaN"):
        image[3, 3, 3] = np.nan
        predictor(image)
    with pytest.raises(CheckpointMismatchError, match="stem.0.weight"):
        LazyPredictor(
            run,
            overrides=[
                "model.input_channels=4",
                "model.pixel_mean=[1,1,1,1]",
                "model.pixel_std=[1,1,1,1]",
            ],
        )
