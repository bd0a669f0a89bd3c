"""``train_net.py`` on bad input: an error that names the cause, and no half-written file."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.engine.cli import main
from vit_adapter.utils.atomic import TEMPORARY_MARK

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_loss_that_is_not_finite_stops_the_run(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    # The run fails in its last iteration, after which it would be evaluated and saved.
    diverging = ["optimizer.lr=1e12", "lr_multiplier.warmup_iters=0", "train.max_iter=2"]
    with pytest.raises(FloatingPointError) as caught:
        main([*command, *diverging])
    message = str(caught.value)
    assert "stopped at iteration 1" in message
    assert "learning rate: 5e+11" in message  # halfway to 0
    assert "losses: " in message
    assert ".png" in message.partition("images of the batch: ")[2]
    assert "Lower optimizer.lr" in message
    assert not list(run.glob("model_*.pth"))
    assert not (run / "last_checkpoint").exists()
    assert not (run / "results.json").exists()
    assert not [file for file in run.rglob("*") if TEMPORARY_MARK in file.name]
    assert not {"NaN", "Infinity"} & set(re.findall(r"\w+", (run / "metrics.json").read_text()))


def test_failed_evaluation_loses_nothing(command: list[str], shapes: Path, tmp_path: Path) -> None:
    images = tmp_path / "val"
    shutil.copytree(shapes / "val", images)
    broken = sorted(images.iterdir())[-1]
    content = broken.read_bytes()
    broken.write_bytes(content[:200])
    command = [*command, f"data.val_images={images}", "train.eval_period=2", "train.max_iter=3"]
    with pytest.raises(Exception, match=broken.name):
        main(command)
    run = tmp_path / "run"
    assert [file.name for file in run.glob("*.pth")] == ["model_0000001.pth"]
    broken.write_bytes(content)
    main([*command, "--resume"])
    assert load_checkpoint_file(run / "model_final.pth")["iteration"] == 2
    steps = (run / "metrics.json").read_text().count("total_loss")
    assert steps == 3


def test_weights_for_other_classes(
    command: list[str], shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*command, "train.max_iter=1"])
    weights = tmp_path / "run" / "model_final.pth"
    content = json.loads((shapes / "annotations/instances_train.json").read_text())
    content["categories"] = content["categories"][:2]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 3]
    two = tmp_path / "two.json"
    two.write_text(json.dumps(content))
    command = [
        *command,
        f"data.train_json={two}",
        "data.val_json=",
        "data.val_images=",
        f"train.init_checkpoint={weights}",
        "train.max_iter=1",
        f"train.output_dir={tmp_path / 'two'}",
    ]
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "roi_heads.box_predictor.cls_score.weight: (4, 32)" in capsys.readouterr().err
    assert not list((tmp_path / "two").glob("*.pth"))
    main([*command, "train.allow_mismatch=[box_predictor,mask_head.predictor]"])
    model = load_checkpoint_file(tmp_path / "two/model_final.pth")["model"]
    assert model["roi_heads.box_predictor.cls_score.weight"].shape == (3, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], r"--eval-only needs weights: give train\.init_checkpoint"),
        (["train.init_checkpoint=nowhere.pth"], r"'nowhere\.pth' does not exist"),
        (["train.init_checkpoint=TRUNCATED"], "damaged, incomplete"),
        (["train.init_checkpoint=OTHER"], "(?s)does not fit the model.*only in the checkpoint.*b"),
        (["data.val_json=", "data.val_images="], "needs an evaluator"),
    ],
)
def test_evaluation_that_is_not_possible(
    command: list[str],
    changes: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save({"b": torch.zeros(2)}, tmp_path / "other.pth")
    (tmp_path / "truncated.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:-99])
    for word in ("other", "truncated"):
        changes = [c.replace(word.upper(), str(tmp_path / f"{word}.pth")) for c in changes]
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--eval-only", *changes])
    assert re.search(message, capsys.readouterr().err)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["log.txt"]


def test_data_that_do_not_fit_are_refused_before_training(
    command: list[str], shapes: Path, tmp_path: Path
) -> None:
    content = json.loads((shapes / "annotations/instances_train.json").read_text())
    content["annotations"][0]["category_id"] = 99
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"(?s)wrong\.json.*99"):
        main([*command, f"data.train_json={tmp_path / 'wrong.json'}"])
    without_own_data = [text for text in command if not text.startswith("data.")]
    with pytest.raises(ValueError, match="3 thing classes.*model.roi_heads.num_classes=5"):
        main([*without_own_data, "model.roi_heads.num_classes=5"])
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["log.txt"]
