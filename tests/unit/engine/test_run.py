"""What a run hands to its trainer."""

from pathlib import Path

import pytest
from torch import nn

from vit_adapter.config.loading import load_config
from vit_adapter.engine import run


class Built(Exception):
    """Raised in place of training."""


def test_options_of_a_step_reach_the_trainer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, object] = {}
    compiled: list[nn.Module] = []

    def trainer(**arguments: object) -> None:
        given.update(arguments)
        raise Built

    monkeypatch.setattr(run, "Trainer", trainer)
    monkeypatch.setattr(run, "compile_backbone", lambda cfg, model: compiled.append(model))
    overrides = ["train.accumulate=2", "train.log_period=7", "train.device=cpu"]
    cfg = load_config(
        "quick_start/semantic_fpn_vit_adapter_tiny_scratch",
        [*overrides, f"train.output_dir={tmp_path}", "model.sem_seg_head.num_classes=3"],
    )
    with pytest.raises(Built):
        run.train(cfg)
    assert (given["accumulate"], given["log_period"]) == (2, 7)
    assert compiled == [given["model"]]
