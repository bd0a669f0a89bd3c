"""Which weights a run keeps and evaluates: their moving average (EMA), and the best ones."""

import json
from pathlib import Path

import pytest
import torch

from vit_adapter import LazyPredictor
from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

EMA = ["train.model_ema.enabled=True", "train.model_ema.decay=0.5"]


def read(file: Path) -> dict:
    return json.loads(file.read_text())


def test_average_is_trained_resumed_evaluated_and_used(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    main([*command, *EMA, "train.max_iter=2"])
    first = load_checkpoint_file(run / "model_final.pth")
    assert set(first["model_ema"]) == set(first["model"])  # nothing is frozen
    main([*command, *EMA, "train.max_iter=3", "--resume"])
    results = read(run / "results.json")
    assert set(results) == {"bbox", "segm", "bbox_ema", "segm_ema"}
    last = load_checkpoint_file(run / "model_final.pth")
    for name, value in last["model_ema"].items():
        if value.is_floating_point():
            expected = (first["model_ema"][name] + last["model"][name]) / 2
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)

    # The config of the run decides which weights are used afterwards.
    for use, suffix, weights in ((False, "", "model"), (True, "_ema", "model_ema")):
        override = f"train.model_ema.use_ema_weights_for_eval_only={use}"
        main(["--config-file", str(run), "--eval-only", override])
        assert read(run / "results_eval.json") == {
            task: results[f"{task}{suffix}"] for task in ("bbox", "segm")
        }
        model = LazyPredictor(run, overrides=[override]).model
        assert all(torch.equal(x, last[weights][name]) for name, x in model.state_dict().items())


def test_the_best_checkpoint_and_an_early_stop(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    # With such a learning rate nothing improves after the first evaluation.
    best = ["train.best.metric=bbox_ema/AP", "train.best.patience=1", "optimizer.lr=1e-30"]
    main([*command, *EMA, *best, "train.max_iter=9", "train.eval_period=1", "--num-gpus", "2"])
    assert (run / "last_checkpoint").read_text() == "model_final.pth"
    assert iterations(run) == {"best": 0, "final": 1}
    assert [entry[0] for entry in read(run / "evaluations.json")["evaluations"]] == [0, 1]
    for number in (1, 2):  # a resumed run says it again
        log = (run / "log.txt").read_text()
        assert log.count("The run stops early, after iteration 1") == number
        changes = ["train.best.patience=null", "train.max_iter=3"] if number == 2 else []
        main(["--config-file", str(run), "--resume", *changes])
    assert iterations(run) == {"best": 0, "final": 2}


def iterations(run: Path) -> dict[str, int]:
    names = ("best", "final")
    return {name: load_checkpoint_file(run / f"model_{name}.pth")["iteration"] for name in names}
