"""Numbers of ``train`` that make sense, and those that do not."""

import pytest
from omegaconf import OmegaConf

from vit_adapter.engine.config import UsageError
from vit_adapter.engine.periods import check_periods

USUAL = {
    "max_iter": 9, "eval_period": 3, "log_period": 1,
    "checkpointer": {"period": 3, "max_to_keep": 3},
}


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["eval_period=0", "checkpointer.period=0", "checkpointer.max_to_keep=null"],
        ["checkpointer.max_to_keep=1"],
        ["max_iter=null"],
    ],
)
def test_accepted(changes: list[str]) -> None:
    check_periods(OmegaConf.merge(USUAL, OmegaConf.from_dotlist(changes)))


def test_config_without_periods() -> None:
    check_periods(OmegaConf.create({"max_iter": "${n}", "n": 2}))


@pytest.mark.parametrize("key", ["eval_period", "log_period", "checkpointer.period"])
@pytest.mark.parametrize("value", ["-1", "often", "2.5", "null", "true", "[1]"])
def test_refused(key: str, value: str) -> None:
    options = OmegaConf.merge(USUAL, OmegaConf.from_dotlist([f"{key}={value}"]))
    with pytest.raises(UsageError, match=rf"train\.{key}=.*, expected a whole number of at least"):
        check_periods(options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("log_period=0", "train.log_period=0, expected a whole number of at least 1"),
        ("checkpointer.max_to_keep=0", "max_to_keep=0, expected .* at least 1; null keeps all"),
        ("max_iter=0", "train.max_iter=0, expected a whole number of at least 1"),
        ("max_iter=long", "train.max_iter='long'"),
        ("eval_period=-3", "0 evaluates only after the last iteration"),
        ("checkpointer.period=-3", "0 saves only after the last iteration"),
    ],
)
def test_message(change: str, message: str) -> None:
    options = OmegaConf.merge(USUAL, OmegaConf.from_dotlist([change]))
    with pytest.raises(UsageError, match=message):
        check_periods(options)
