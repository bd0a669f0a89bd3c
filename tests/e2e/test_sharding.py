"""``train_net.py`` with a divided model and with sharded checkpoints, over several starts."""

from pathlib import Path

import pytest
import torch
from runs import losses, run_two_processes
from torch import Tensor

from vit_adapter import LazyPredictor
from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.engine.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def weights(run: Path, name: str = "model_final.pth") -> dict[str, Tensor]:
    return load_checkpoint_file(run / name)["model"]


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Steps move the weights by some 2e-3; sums in another order, and nothing else, by 2e-5."""
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-4, msg=name)


def test_a_run_continues_in_every_other_way(command: list[str], tmp_path: Path) -> None:
    """Two processes divide the model, one continues from their folder, two from its file."""
    run, reference = tmp_path / "run", tmp_path / "reference"
    common = [
        *command,
        "dataloader.train.total_batch_size=4",
        "train.clip_grad.enabled=True",
        "train.loss_normalization=global",
        # Nothing depends on how the images are spread.
        "model.backbone.bottom_up.norm=SyncBN",
        "model.backbone.norm=SyncBN",
        "model.backbone.bottom_up.vit.drop_path_rate=0.0",
        "train.max_iter=5",
        "train.checkpointer.period=1",
        "train.checkpointer.max_to_keep=null",
    ]
    fsdp = [*common, "train.parallel=fsdp"]
    sharded = [*fsdp, "train.checkpointer.sharded=True", "train.eval_period=2"]
    output = run_two_processes([[*common, f"train.output_dir={reference}"], sharded])
    assert "this process keeps" in output
    assert losses(run) == pytest.approx(losses(reference), abs=1e-4)
    assert_same(weights(run, "model_final.sharded"), weights(reference))
    assert (run / "last_checkpoint").read_text() == "model_final.sharded"
    assert len(list(run.glob("model_000000?.sharded"))) == 5
    LazyPredictor(run)

    (run / "last_checkpoint").write_text("model_0000001.sharded")
    main([*common, "--resume"])
    assert_same(weights(run), weights(reference))

    (run / "last_checkpoint").write_text("model_0000002.pth")
    (run / "model_final.pth").unlink()
    run_two_processes([[*fsdp, "--resume"]])
    assert_same(weights(run), weights(reference))
