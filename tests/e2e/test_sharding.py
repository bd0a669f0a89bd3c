"""``train_net.py`` with a divided model and with sharded checkpoints, over several starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vit_adapter import LazyPredictor
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

ROOT = Path(__file__).parents[2]


def losses(run: Path) -> list[float]:
    entries = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    return [entry["total_loss"] for entry in entries if "total_loss" in entry]


def run_two_processes(commands: list[list[str]]) -> str:
    program = str(Path(__file__).with_name("run_two_processes.py"))
    paths = os.pathsep.join([str(ROOT / "projects/ViTAdapter"), *sys.path])
    done = subprocess.run(
        [sys.executable, program, json.dumps(commands)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_continues_in_every_other_way(command: list[str], tmp_path: Path) -> None:
    """Two processes divide the model, one continues from their folder, two from its file."""
    run, reference = tmp_path / "run", tmp_path / "reference"
    common = [
        *command,
        "dataloader.train.total_batch_size=4",
        "train.clip_grad.enabled=True",
        "train.loss_normalization=global",
        "train.max_iter=5",
        "train.checkpointer.period=1",
        "train.checkpointer.max_to_keep=null",
    ]
    fsdp = [*common, "train.parallel=fsdp"]
    sharded = [*fsdp, "train.checkpointer.sharded=True", "train.eval_period=2"]
    output = run_two_processes([[*common, f"train.output_dir={reference}"], sharded])
    assert "this process keeps" in output
    assert losses(run) == pytest.approx(losses(reference), abs=1e-4)
    assert (run / "last_checkpoint").read_text() == "model_final.sharded"
    assert len(list(run.glob("model_000000?.sharded"))) == 5
    LazyPredictor(run)

    (run / "last_checkpoint").write_text("model_0000001.sharded")
    main([*common, "--resume"])
    assert losses(run) == pytest.approx(losses(reference), rel=0.05)

    (run / "last_checkpoint").write_text("model_0000002.pth")
    run_two_processes([[*fsdp, "--resume"]])
    assert losses(run) == pytest.approx(losses(reference), rel=0.05)
