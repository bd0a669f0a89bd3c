"""The resolved numbers of a run, and the space for its checkpoints."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from detectron2.config import LazyCall as L
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_adapter.engine.dry_run import numbers
from vit_adapter.engine.dry_run.numbers import report_disk, report_numbers
from vit_adapter.engine.dry_run.report import Report
from vit_adapter.solver import WarmupPoly

GIBIBYTE = 2**30


@pytest.fixture
def cfg(tmp_path: Path) -> DictConfig:
    return OmegaConf.create(
        {
            "dataloader": {"train": {"total_batch_size": 16}, "evaluator": {}},
            "optimizer": {"lr": 1e-3},
            "lr_multiplier": L(WarmupPoly)(max_iter="${train.max_iter}", warmup_iters=50),
            "train": {
                "max_iter": 1000,
                "accumulate": 2,
                "eval_period": 300,
                "checkpointer": {"period": 100, "max_to_keep": 3},
                "output_dir": str(tmp_path / "new" / "run"),
            },
        },
        flags={"allow_objects": True},
    )


def run_values(cfg: DictConfig, **given: Any) -> dict[str, Any]:
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [
        {"params": weights[:1], "lr": 1e-4, "weight_decay": 0.05},
        {"params": weights[1:], "lr": 1e-3, "weight_decay": 0.0},
    ]
    report = Report()
    given = {"num_images": 160, "processes": 4, "start_iter": 0, **given}
    report_numbers(cfg, torch.optim.AdamW(groups), report, **given)
    return report.content()["run"]


def test_batch_length_rates_and_periods(cfg: DictConfig) -> None:
    values = run_values(cfg)
    assert (values["micro_batch"], values["epochs"]) == (2, 100)
    assert values["learning_rate"] == 1e-3
    assert values["lr_multipliers"] == pytest.approx([0.1, 1])
    assert values["weight_decays"] == [0.0, 0.05]
    assert values["warmup_iters"] == 50
    assert values["evaluation"] == {"period": 300, "times": 4}
    assert values["checkpoint"] == {"period": 100, "times": 10}


def test_what_a_config_may_lack(cfg: DictConfig) -> None:
    del cfg.train["accumulate"]
    cfg.dataloader.evaluator = None
    values = run_values(cfg, num_images=None, processes=1)
    assert values["micro_batch"] == 16 and "epochs" not in values
    assert values["evaluation"]["times"] == 0


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(("free", "is_ready"), [(4, True), (3, False)])
def test_space_for_checkpoints(
    cfg: DictConfig, free: int, is_ready: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free * GIBIBYTE))
    report = Report()
    report_disk(cfg, report, checkpoint_bytes=GIBIBYTE, start_iter=0)
    assert report.content()["disk"]["needed_bytes"] == 4 * GIBIBYTE  # three, and the last one
    assert report.is_ready is is_ready
    assert is_ready or "train.checkpointer.max_to_keep" in report.problems[0]


def test_only_as_many_checkpoints_as_are_written(cfg: DictConfig) -> None:
    cfg.train.checkpointer = {"period": 0, "max_to_keep": None}
    report = Report()
    report_disk(cfg, report, checkpoint_bytes=8, start_iter=0)
    assert report.content()["disk"]["kept"] == 1


@pytest.mark.parametrize(("start_iter", "warns"), [(0, True), (5, False)])
def test_earlier_run_is_mentioned(cfg: DictConfig, start_iter: int, warns: bool) -> None:
    folder = Path(cfg.train.output_dir)
    folder.mkdir(parents=True)
    (folder / "model_0000004.pth").touch()
    report = Report()
    report_disk(cfg, report, checkpoint_bytes=8, start_iter=start_iter)
    assert bool(report.warnings) is warns
    assert numbers.run_files.SET_ASIDE in "".join(report.warnings) or not warns
