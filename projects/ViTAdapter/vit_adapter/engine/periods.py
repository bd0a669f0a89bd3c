"""Checks of a config's integers: length of the run, periods, micro-batches, loader processes."""

from omegaconf import DictConfig, OmegaConf

from vit_adapter.config.errors import UsageError

__all__ = ["check_periods"]

_TRAINING = {
    "train.max_iter": (1, ""),
    "train.eval_period": (0, "; 0 evaluates only after the last iteration"),
    "train.log_period": (1, ""),
    "train.accumulate": (1, "; 1 computes the gradients of a batch at once"),
    "train.checkpointer.period": (0, "; 0 saves only after the last iteration"),
    "train.checkpointer.max_to_keep": (1, "; null keeps all"),
    "train.best.patience": (1, "; null never stops early"),
    "dataloader.train.num_workers": (0, "; 0 reads the images in the training process itself"),
    "dataloader.train.timeout": (0, "; seconds, 0 waits for images without an end"),
}
_TESTING = {
    "train.eval_pictures": (0, "; 0 draws no predictions"),
    "dataloader.test.num_workers": _TRAINING["dataloader.train.num_workers"],
}
_OPTIONAL = ("train.max_iter", "train.checkpointer.max_to_keep", "train.best.patience")


def check_periods(cfg: DictConfig, *, training: bool = True) -> None:
    """Refuse numbers that are not valid, before anything is built.

    Args:
        cfg: the whole config; keys that it does not have are not checked.
        training: False checks only what an evaluation reads.

    Raises:
        UsageError: a number is not valid; the message names its key.
    """
    for key, (least, meaning) in {**(_TRAINING if training else {}), **_TESTING}.items():
        value = OmegaConf.select(cfg, key, default=least)
        if value is None and key in _OPTIONAL:
            continue
        if type(value) is not int or value < least:  # True is an int as well
            raise UsageError(
                f"{key}={value!r}, expected a whole number of at least {least}{meaning}."
            )
