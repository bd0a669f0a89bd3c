"""``train_net.py`` on custom data: training for epochs, with and without masks."""

import json
from pathlib import Path

import numpy as np
import pytest

from vit_adapter import LazyPredictor
from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def command(command: list[str]) -> list[str]:
    """The command line without overrides of periods."""
    return [text for text in command if "period" not in text or "log_period" in text]


def metrics(run: Path, name: str) -> dict[int, float]:
    entries = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    return {entry["iteration"]: entry[name] for entry in entries if name in entry}


def test_epochs_and_the_config_that_is_saved(command: list[str], tmp_path: Path) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    main([*command, "train.epochs=2", "train.auto_scale_lr=True"])
    words = (
        "Schedule: 2 epochs of 6 images at batch 2 = 6 iterations; evaluation and checkpoint every "
        "3; lr 0.002 x 2/4 = 0.001; warm-up 0 iterations."
    )
    assert (run / "log.txt").read_text().count(words) == 1
    assert list(metrics(run, "bbox/AP")) == [2, 6]
    assert [file.name for file in sorted(run.glob("model_*"))] == [
        "model_0000002.pth",
        "model_0000005.pth",
        "model_final.pth",
    ]
    rates = metrics(run, "lr")
    assert list(rates.values()) == pytest.approx([0.001 * (1 - i / 6) for i in range(6)])

    saved = str(run / "config.yaml")
    text = Path(saved).read_text()
    (run / "last_checkpoint").write_text("model_0000002.pth")  # as after an interruption
    main(["--config-file", saved, "--resume"])
    assert Path(saved).read_text() == text
    assert (list(metrics(run, "bbox/AP")), metrics(run, "lr")) == ([2, 6], rates)
    main(["--config-file", saved, f"train.output_dir={again}"])
    assert (list(metrics(again, "bbox/AP")), metrics(again, "lr")) == ([2, 6], rates)


def test_boxes_without_masks(command: list[str], shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for split in ("train", "val"):
        content = json.loads((shapes / f"annotations/instances_{split}.json").read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    boxes = [f"data.{split}_json={tmp_path / split}.json" for split in ("train", "val")]
    command = [*command, *boxes]
    main([*command, "train.max_iter=1"])
    trained = json.loads((run / "results.json").read_text())
    assert set(trained) == {"bbox"}
    weights = run / "model_final.pth"
    assert not [name for name in load_checkpoint_file(weights)["model"] if "mask" in name]

    from_weights = ["--eval-only", f"train.init_checkpoint={weights}"]
    evaluated = tmp_path / "evaluated"
    for arguments in (command, ["--config-file", str(run / "config.yaml")]):
        main([*arguments, *from_weights, f"train.output_dir={evaluated}"])
        assert json.loads((evaluated / "results.json").read_text()) == trained
        (evaluated / "results.json").unlink()
    for predictor in (LazyPredictor(run), LazyPredictor(command[1], weights, command[2:])):
        instances = predictor(np.zeros((50, 70, 3), np.uint8))["instances"]
        assert instances.has("pred_boxes") and not instances.has("pred_masks")


def test_a_hybrid_task_cascade_without_label_maps(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ("data.", "dataloader.test.mapper", "train.", "dataloader.train.")
    small = [
        "model.backbone.bottom_up.bottom_up.vit.embed_dim=64",
        "model.backbone.out_channels=32",
        *(f"model.roi_heads.box_heads.{stage}.conv_dims=[8]" for stage in range(3)),
        *(f"model.roi_heads.mask_heads.{stage}.conv_dims=[32,32]" for stage in range(3)),
        "train.vit_checkpoint=",
        "train.max_iter=2",
        "dataloader.evaluator=null",
    ]
    given = [text for text in command if text.startswith(names) and "short_edges" not in text]
    htc = ["--config-file", "coco/htc_vit_adapter_large_augreg_3x", *given, *small]
    htc.append("dataloader.train.mapper.augmentations._target_=vit_adapter.data.resize")
    htc.append("dataloader.train.mapper.augmentations.short_edges=[64]")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="stuffthingmaps.*model.roi_heads.semantic_head=n"):
        main(htc)
    main([*htc, "model.roi_heads.semantic_head=null"])
    assert set(metrics(tmp_path / "run", "total_loss")) == {0, 1}
    assert not metrics(tmp_path / "run", "loss_sem_seg")
