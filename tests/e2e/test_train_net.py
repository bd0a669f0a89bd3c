"""``train_net.py`` as users call it: train, resume, evaluate."""

import json
import math
import time
from pathlib import Path

import pytest
from runs import fork, losses_by_iteration, metrics

from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.engine.cli import main
from vit_adapter.utils.atomic import TEMPORARY_MARK

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_train_resume_and_evaluate(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    main([*command, "train.max_iter=4", "train.checkpointer.period=2", "train.eval_period=2"])
    assert (run / "last_checkpoint").read_text() == "model_final.pth"
    assert sorted(losses_by_iteration(run)) == [0, 1, 2, 3]
    assert (run / "config.yaml").is_file()
    assert list(run.glob("events.out.tfevents.*"))
    trained = json.loads((run / "results.json").read_text())
    assert set(trained) == {"bbox", "segm"}
    assert math.isfinite(trained["bbox"]["AP"])
    assert [entry["iteration"] for entry in metrics(run) if "bbox/AP" in entry] == [1, 4]

    # The same weights give the same numbers, however they are named; the results of the training
    # run stay.
    (run / "results.json").write_text("{}")
    weights = run / "model_final.pth"
    main([*command, "--eval-only", f"train.init_checkpoint={weights}"])
    assert json.loads((run / "results_eval.json").read_text()) == trained
    (run / "results_eval.json").unlink()
    saved = str(run / "config.yaml")
    main(["--config-file", saved, "--eval-only", "--resume", f"train.output_dir={run}"])
    assert json.loads((run / "results_eval.json").read_text()) == trained
    assert (run / "results.json").read_text() == "{}"

    # A longer run continues where the shorter one ended.
    before = load_checkpoint_file(weights)
    main([*command, "--resume", "train.max_iter=6"])
    assert sorted(losses_by_iteration(run)) == [0, 1, 2, 3, 4, 5]
    after = load_checkpoint_file(weights)
    assert (before["iteration"], after["iteration"]) == (3, 5)
    steps = {int(state["step"]) for state in after["trainer"]["optimizer"]["state"].values()}
    assert steps == {6}

    # A complete run is evaluated once more and otherwise not changed.
    longer = json.loads((run / "results.json").read_text())
    written = weights.stat().st_mtime_ns
    (run / "results.json").unlink()
    main([*command, "--resume", "train.max_iter=6"])
    assert json.loads((run / "results.json").read_text()) == longer
    assert weights.stat().st_mtime_ns == written
    assert sorted(losses_by_iteration(run)) == [0, 1, 2, 3, 4, 5]


def test_a_second_run_in_the_same_folder_overwrites_nothing(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    main([*command, "train.max_iter=1"])
    first = (run / "model_final.pth").read_bytes()
    # Starts from a file in the folder whose files are moved aside.
    main([*command, "train.max_iter=2", f"train.init_checkpoint={run / 'model_final.pth'}"])
    assert (run / "previous_run_1/model_final.pth").read_bytes() == first
    assert (run / "previous_run_1/last_checkpoint").is_file()
    assert sorted(losses_by_iteration(run / "previous_run_1")) == [0]
    assert "previous_run_1/model_final.pth" in (run / "config.yaml").read_text()
    assert sorted(losses_by_iteration(run)) == [0, 1]
    # If torchrun restarts the command, the user has not asked for a new run.
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(SystemExit) as caught:
        main([*command, "train.max_iter=1"])
    assert caught.value.code == 2
    assert not (run / "previous_run_2").exists()


def test_equal_seeds_give_equal_losses(command: list[str], tmp_path: Path) -> None:
    recorded = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        folder = tmp_path / name
        main([*command, "train.max_iter=3", f"train.output_dir={folder}", f"train.seed={seed}"])
        recorded.append(losses_by_iteration(folder))
    assert recorded[0] == recorded[1]
    assert recorded[0] != recorded[2]


def test_killed_run_resumes_from_its_last_checkpoint(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*command, "train.max_iter=40", "train.checkpointer.period=3"]
    output = tmp_path / "output"
    process = fork(command, output)
    deadline = time.monotonic() + 200
    last = run / "last_checkpoint"
    while not last.exists() or last.read_text() < "model_0000008.pth":
        assert process.is_alive(), output.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not (run / "model_final.pth").exists(), "the run ended before it was killed"
    saved = load_checkpoint_file(run / last.read_text())["iteration"]
    # A temporary file, as left by a kill in the middle of a write.
    unfinished = run / f".model_0000011.pth{TEMPORARY_MARK}x"
    unfinished.write_bytes(b"half")
    with open(run / "metrics.json", "a") as stream:
        stream.write('{"iteration": 39, "total_lo')

    process = fork([*command, "--resume"], output)
    process.join(300)
    assert process.exitcode == 0, output.read_text()
    assert f"Starting training from iteration {saved + 1}" in output.read_text()
    assert load_checkpoint_file(run / "model_final.pth")["iteration"] == 39
    recorded = [int(entry["iteration"]) for entry in metrics(run) if "total_loss" in entry]
    # Checkpoints are written before metrics, so those of the killed iteration may be missing.
    assert recorded in (list(range(40)), [i for i in range(40) if i != saved])
    assert (run / "results.json").is_file()
    assert not unfinished.exists()
    # train.checkpointer.max_to_keep also counts the checkpoints of the killed process.
    assert len(list(run.glob("model_0*.pth"))) == 3


def test_bfloat16_on_the_cpu(command: list[str], tmp_path: Path) -> None:
    main([*command, "train.amp.enabled=True", "train.amp.dtype=bfloat16", "train.max_iter=2"])
    recorded = losses_by_iteration(tmp_path / "run")
    assert sorted(recorded) == [0, 1]
    main([*command, "train.max_iter=1", f"train.output_dir={tmp_path / 'full'}"])
    full = losses_by_iteration(tmp_path / "full")
    assert recorded[0] == pytest.approx(full[0], rel=0.05)
    assert recorded[0] != full[0]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_on_cuda(command: list[str], dtype: str, tmp_path: Path) -> None:
    amp = ["train.amp.enabled=True", f"train.amp.dtype={dtype}"]
    main([*command, "train.device=cuda", *amp, "train.max_iter=2"])
    recorded = losses_by_iteration(tmp_path / "run")
    assert sorted(recorded) == [0, 1]
    full = tmp_path / "full"
    main([*command, "train.device=cuda", "train.max_iter=1", f"train.output_dir={full}"])
    assert recorded[0] == pytest.approx(losses_by_iteration(full)[0], rel=0.1)
