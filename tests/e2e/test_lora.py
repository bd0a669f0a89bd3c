"""A fixed ViT with LoRA: two processes train it, resume from the trained part, and predict."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from runs import run_two_processes

from vit_adapter import LazyPredictor
from vit_adapter.backbone.lora import belongs_to_lora
from vit_adapter.checkpoint.files import load_checkpoint_file
from vit_adapter.config.loading import load_config

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

ROOT = Path(__file__).parents[2]
VIT = "backbone.bottom_up.vit."


def test_two_processes_train_the_factors_and_resume(command: list[str], tmp_path: Path) -> None:
    """No process waits for a gradient, and the checkpoints hold no fixed blocks."""
    run, vit = tmp_path / "run", tmp_path / "vit.pth"
    cfg = load_config(command[1], [word for word in command[2:] if word.startswith("model.")])
    torch.save(instantiate(cfg.model.backbone.bottom_up.vit).state_dict(), vit)
    common = [
        *command,
        "data.val_json=",
        "data.val_images=",
        "model.backbone.bottom_up.mode=frozen",
        "model.backbone.bottom_up.vit.lora_rank=2",
        f"train.vit_checkpoint={vit}",
        "train.checkpointer.period=1",
        "train.checkpointer.trained_only=True",
    ]
    commands = [[*common, "train.max_iter=2"], [*common, "train.max_iter=3", "--resume"]]
    run_two_processes(commands)

    stored = [load_checkpoint_file(run / f"model_000000{n}.pth")["model"] for n in range(3)]
    in_blocks = {name for name in stored[0] if name.startswith(f"{VIT}blocks.")}
    assert len(in_blocks) == 4 * 2 * 3 and all(map(belongs_to_lora, in_blocks))
    factors = {name for name in in_blocks if not name.endswith("lora_scale")}
    changed = {name for name in stored[1] if not torch.equal(stored[1][name], stored[2][name])}
    assert {name for name in changed if name.startswith(VIT)} == factors
    predictor = LazyPredictor(run)
    state = predictor.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in stored[2].items())
    for name, value in torch.load(vit).items():
        assert torch.equal(state[VIT + name], value)
    assert "instances" in predictor(np.zeros((64, 64, 3), np.uint8))
