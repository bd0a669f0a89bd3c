"""The length of a run and what depends on it: periods, milestones, warm-up, learning rate.

The numbers in a config are made for its data and its total batch size, and by default they stay.
``train.epochs``, an override of ``train.max_iter`` and ``train.auto_scale_lr`` adapt them to other
data and another batch size. The result is written into the config as plain numbers, so that a saved
config gives the same schedule again and nothing is derived twice.
"""

import logging
import math
from collections.abc import Sequence

from detectron2.config import instantiate
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import Dataset

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.build import read_train_data

__all__ = ["fit_schedule"]

logger = logging.getLogger(__name__)

_PERIODS = ("train.eval_period", "train.checkpointer.period")
_PART = 10  # a derived warm-up is at most 1/10 of a run, a shortened period at least 1/10


def fit_schedule(cfg: DictConfig, overrides: Sequence[str] = ()) -> Dataset | None:
    """Apply ``train.epochs``, ``train.max_iter`` and ``train.auto_scale_lr`` to a config.

    An epoch is the number of images divided by the total batch size, rounded up to iterations.
    ``train.epochs`` sets ``train.max_iter``, and both periods to one epoch; then it becomes None.
    An override of ``train.max_iter`` only shortens the periods, to an epoch or a tenth of the run,
    whichever is longer; 0 (only at the end) stays. In both cases the warm-up is at most a tenth of
    the run. Milestones keep their share of the run; if they are overridden together with
    ``train.epochs``, they are in epochs of this run. All other overrides stay as given.

    ``train.auto_scale_lr`` multiplies ``optimizer.lr``, overridden or not, by the total batch size
    divided by ``train.base_batch_size``, and then sets the latter to that batch size.

    Args:
        cfg: changed in place.
        overrides: ``key=value`` of the command line, already applied to ``cfg``.

    Returns:
        The training data for ``build_train_loader``, if they had to be read.

    Raises:
        UsageError: a value is not valid, or overrides contradict each other.
    """
    given = [text.lstrip("+").partition("=")[0] for text in overrides]
    epochs = _take_epochs(cfg, given)
    dataset, source = None, ""
    if epochs is not None or _is_given("train.max_iter", given):
        dataset = read_train_data(cfg)
        source = _fit_length(cfg, dataset, epochs, given)
    logger.info("Schedule: %s%s.", source, _describe(cfg, _scale_learning_rate(cfg)))
    return dataset


def _take_epochs(cfg: DictConfig, given: Sequence[str]) -> float | None:
    """Take ``train.epochs`` out of the config; the derived values will replace it."""
    epochs, cfg.train.epochs = cfg.train.get("epochs"), None
    if epochs is None:
        return None
    if _is_given("train.max_iter", given):
        if not _is_given("train.epochs", given):
            return None  # the override replaces the epochs of the config file
        raise UsageError(
            f"train.epochs={epochs} and train.max_iter={cfg.train.max_iter} both set the length of "
            "the run; give one of them."
        )
    if not _is_number(epochs) or epochs <= 0:
        raise UsageError(
            f"train.epochs={epochs} is not valid; give a number above 0, such as 12 or 0.5, or "
            "train.max_iter=<iterations>."
        )
    return epochs


def _fit_length(
    cfg: DictConfig, dataset: Dataset | None, epochs: float | None, given: Sequence[str]
) -> str:
    """Set length, periods and warm-up of the run; return a text that explains ``epochs``."""
    epoch, source = math.inf, ""
    if hasattr(dataset, "__len__") and "total_batch_size" in cfg.dataloader.train:
        batch = _whole_number(cfg, "dataloader.train.total_batch_size")
        epoch = math.ceil(len(dataset) / batch)
    if epochs is not None:
        _set_epochs(cfg, epochs, epoch, given)
        source = f"{epochs:g} epochs of {len(dataset):,} images at batch {batch} = "
    max_iter = _whole_number(cfg, "train.max_iter")
    shortest = max(epoch, math.ceil(max_iter / _PART))
    for key in _PERIODS:
        if not _is_given(key, given):
            OmegaConf.update(cfg, key, min(OmegaConf.select(cfg, key), shortest))
    warmup = getattr(_build_schedule(cfg), "warmup", None)
    if warmup and not _is_given("lr_multiplier.warmup_iters", given):
        cfg.lr_multiplier.warmup_iters = min(warmup.warmup_iters, max_iter // _PART)
    return source


def _set_epochs(cfg: DictConfig, epochs: float, epoch: float, given: Sequence[str]) -> None:
    """Set what follows from the number of epochs; ``epoch`` is the length of one in iterations."""
    if epoch == math.inf:
        raise UsageError(
            "train.epochs needs the number of images and the total batch size, which "
            "dataloader.train does not have; give train.max_iter=<iterations>."
        )
    cfg.train.max_iter = max(1, round(epochs * epoch))
    for key in _PERIODS:
        if not _is_given(key, given):
            OmegaConf.update(cfg, key, epoch)
    if _is_given("lr_multiplier.milestones", given):
        if not _is_given("lr_multiplier.epochs", given):  # the unit of the milestones
            cfg.lr_multiplier.epochs = epochs


def _scale_learning_rate(cfg: DictConfig) -> str:
    """Scale ``optimizer.lr`` if the config says so; return a text that shows the rate."""
    options, optimizer = cfg.train, cfg.optimizer
    rate, scale = optimizer.get("lr"), options.get("auto_scale_lr", False)
    if "lr" in optimizer and not (_is_number(rate) and rate > 0):
        raise UsageError(f"optimizer.lr={rate}, expected a number above 0.")
    if not isinstance(scale, bool):
        raise UsageError(f"train.auto_scale_lr={scale!r}, expected True or False.")
    if not scale:
        return f"lr {rate}"
    if rate is None:
        raise UsageError("train.auto_scale_lr scales optimizer.lr, but this config has none.")
    batch = _whole_number(cfg, "dataloader.train.total_batch_size")
    base = _whole_number(cfg, "train.base_batch_size")
    optimizer.lr, options.base_batch_size = rate * (batch / base), batch
    if OmegaConf.select(cfg, "optimizer.params.base_lr") not in (None, optimizer.lr):
        raise UsageError(
            "train.auto_scale_lr scales optimizer.lr, but optimizer.params.base_lr does not depend "
            "on it; override optimizer.lr instead."
        )
    return f"lr {rate:g} x {batch}/{base} = {optimizer.lr:g}"


def _describe(cfg: DictConfig, rate: str) -> str:
    max_iter = _whole_number(cfg, "train.max_iter")
    evaluation, checkpoint = (
        _describe_period(OmegaConf.select(cfg, key), max_iter) for key in _PERIODS
    )
    if cfg.dataloader.get("evaluator") is None:
        evaluation = "never"
    same = evaluation == checkpoint
    words = [
        f"{max_iter:,} iterations",
        f"evaluation {'and' if same else f'{evaluation},'} checkpoint {checkpoint}",
        rate,
    ]
    schedule = _build_schedule(cfg)
    if milestones := getattr(schedule, "milestones", None):
        words.append(f"milestones {' and '.join(f'{milestone:,}' for milestone in milestones)}")
    if warmup := getattr(schedule, "warmup", None):
        words.append(f"warm-up {warmup.warmup_iters:,} iterations")
    return "; ".join(words)


def _describe_period(period: int, max_iter: int) -> str:
    return f"every {period:,}" if 0 < period < max_iter else "at the end"


def _build_schedule(cfg: DictConfig) -> ParamScheduler:
    try:
        return instantiate(cfg.lr_multiplier)
    except (TypeError, ValueError) as error:
        raise UsageError(f"lr_multiplier does not give a schedule: {error}.") from error


def _whole_number(cfg: DictConfig, key: str) -> int:
    value = OmegaConf.select(cfg, key)
    if type(value) is not int or value < 1:  # True is an int as well
        raise UsageError(f"{key}={value!r}, expected a whole number of at least 1.")
    return value


def _is_number(value: object) -> bool:
    """Whether a value is a finite number; True and False do not count."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_given(key: str, given: Sequence[str]) -> bool:
    """Whether the overrides name a key, or a node that contains it."""
    return any(key == name or key.startswith(f"{name}.") for name in given)
