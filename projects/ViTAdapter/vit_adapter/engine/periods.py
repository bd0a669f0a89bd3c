"""The whole numbers of ``train`` that say how long a run takes and how often something happens."""

from omegaconf import DictConfig, OmegaConf

from vit_adapter.engine.config import UsageError

__all__ = ["check_periods"]

_LEAST = {
    "max_iter": (1, ""),
    "eval_period": (0, "; 0 evaluates only after the last iteration"),
    "log_period": (1, ""),
    "checkpointer.period": (0, "; 0 saves only after the last iteration"),
    "checkpointer.max_to_keep": (1, "; null keeps all"),
}
_OPTIONAL = ("max_iter", "checkpointer.max_to_keep")


def check_periods(options: DictConfig) -> None:
    """Refuse periods that no training can follow, before anything is built.

    Args:
        options: the node ``train``; what it lacks is not looked at.

    Raises:
        UsageError: naming the key, its value and what is expected.
    """
    for key, (least, meaning) in _LEAST.items():
        value = OmegaConf.select(options, key, default=least)
        if value is None and key in _OPTIONAL:
            continue
        if type(value) is not int or value < least:  # True is an int as well
            raise UsageError(
                f"train.{key}={value!r}, expected a whole number of at least {least}{meaning}."
            )
