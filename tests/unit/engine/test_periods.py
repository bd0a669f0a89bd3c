"""Integers of a config that are valid, and those that are not."""

import pytest
from omegaconf import OmegaConf

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.periods import check_periods

USUAL = {
    "train": {
        "max_iter": 9,
        "eval_period": 3,
        "log_period": 1,
        "checkpointer": {"period": 3, "max_to_keep": 3},
    },
    "dataloader": {"train": {"num_workers": 0}, "test": {"num_workers": 2}},
}


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["train.eval_period=0", "train.checkpointer.period=0", "dataloader.test.num_workers=0"],
        ["train.checkpointer.max_to_keep=1", "train.best.patience=1"],
        ["train.best.patience=null"],
        ["train.checkpointer.max_to_keep=null", "train.max_iter=null"],
    ],
)
def test_accepted(changes: list[str]) -> None:
    check_periods(OmegaConf.merge(USUAL, OmegaConf.from_dotlist(changes)))


def test_config_without_periods() -> None:
    check_periods(OmegaConf.create({"train": {"max_iter": "${n}"}, "n": 2}))
    check_periods(OmegaConf.create({"dataloader": {"train": None}}))


def test_evaluation_reads_no_period() -> None:
    changes = ["train.max_iter=0", "dataloader.train.num_workers=-1"]
    cfg = OmegaConf.merge(USUAL, OmegaConf.from_dotlist(changes))
    check_periods(cfg, training=False)
    cfg.dataloader.test.num_workers = -1
    with pytest.raises(UsageError, match="dataloader.test.num_workers=-1"):
        check_periods(cfg, training=False)


@pytest.mark.parametrize(
    "key",
    [
        "train.eval_period",
        "train.log_period",
        "train.accumulate",
        "train.checkpointer.period",
        "dataloader.train.num_workers",
        "dataloader.test.num_workers",
    ],
)
@pytest.mark.parametrize("value", ["-1", "often", "2.5", "null", "true", "[1]"])
def test_refused(key: str, value: str) -> None:
    cfg = OmegaConf.merge(USUAL, OmegaConf.from_dotlist([f"{key}={value}"]))
    with pytest.raises(UsageError, match=rf"{key}=.*, expected a whole number of at least"):
        check_periods(cfg)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.log_period=0", "train.log_period=0, expected a whole number of at least 1"),
        ("train.accumulate=0", "at least 1; 1 computes the gradients of a batch at once"),
        ("train.checkpointer.max_to_keep=0", "max_to_keep=0, .* at least 1; null keeps all"),
        ("train.best.patience=0", "train.best.patience=0, .* at least 1; null never stops early"),
        ("train.max_iter=0", "train.max_iter=0, expected a whole number of at least 1"),
        ("train.max_iter=long", "train.max_iter='long'"),
        ("train.eval_pictures=-1", "0 draws no predictions"),
        ("train.eval_period=-3", "0 evaluates only after the last iteration"),
        ("train.checkpointer.period=-3", "0 saves only after the last iteration"),
    ],
)
def test_message(change: str, message: str) -> None:
    cfg = OmegaConf.merge(USUAL, OmegaConf.from_dotlist([change]))
    with pytest.raises(UsageError, match=message):
        check_periods(cfg)
