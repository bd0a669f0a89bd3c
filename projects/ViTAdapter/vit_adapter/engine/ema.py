"""A moving average (EMA) of the weights: ``train.model_ema``."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vit_adapter.checkpoint.average import MODEL_EMA
from vit_adapter.config.errors import UsageError
from vit_adapter.engine.parallel import shard_like, unwrap

__all__ = ["WeightAverage", "build_average", "restore_average"]

logger = logging.getLogger(__name__)


class WeightAverage:
    """The exponential moving average of the weights that a run trains.

    It starts from the weights of the model. Each update computes
    ``average = decay * average + (1 - decay) * weights``. Buffers such as the running statistics of
    batch norms are averaged in the same way; integers, such as their step counters, are copied.
    Parameters that are not trained equal their average, so they are neither copied nor stored.

    Args:
        model: with or without a wrapper, on its device; what is not trained has
            ``requires_grad=False``. Its parameters and buffers must stay the same objects.
        decay: in [0, 1).

    Raises:
        UsageError: the decay is out of range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not (isinstance(decay, int | float) and 0 <= decay < 1):
            raise UsageError(
                f"train.model_ema.decay={decay!r}, expected a number from 0 to below 1, such as "
                "0.999 or 0.9999: the share of the average that a step keeps."
            )
        self._average = get_ema_multi_avg_fn(decay)
        self._weights: dict[str, Tensor] = {
            name: tensor
            for name, tensor in unwrap(model).state_dict(keep_vars=True).items()
            if isinstance(tensor, Tensor)
            and (tensor.requires_grad or not isinstance(tensor, nn.Parameter))
        }
        # A shared tensor has several names, but one average.
        pairs = {id(tensor): (tensor.detach().clone(), tensor) for tensor in self._weights.values()}
        self._averages = {name: pairs[id(tensor)][0] for name, tensor in self._weights.items()}
        self._pairs = list(pairs.values())
        # PyTorch updates many tensors at once if they are of the same kind.
        groups = defaultdict(list)
        for average, tensor in self._pairs:
            groups[type(average), tensor.device, tensor.dtype].append((average, tensor))
        self._groups = [tuple(map(list, zip(*group, strict=True))) for group in groups.values()]

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the average after each step of ``optimizer``.

        A step that a ``GradScaler`` skips, because a gradient is not finite, does not count.
        """
        optimizer.register_step_post_hook(lambda *_: self.update())

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights."""
        for averages, weights in self._groups:
            if averages[0].is_floating_point():
                self._average(averages, weights, 0)
            else:
                for average, weight in zip(averages, weights, strict=True):
                    average.copy_(weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the average as its weights, until the end of a ``with`` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, tensor in self._pairs:
            kept = tensor.clone()
            tensor.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """Return name -> average, for a checkpoint."""
        return dict(self._averages)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the result of :meth:`state_dict`.

        Raises:
            UsageError: names or shapes differ; nothing is changed.
        """
        different = sorted(
            name
            for name in {*state, *self._averages}
            if name not in state
            or name not in self._averages
            or state[name].shape != self._averages[name].shape
        )
        if different:
            shown = ", ".join(different[:5]) + (", ..." if len(different) > 5 else "")
            raise UsageError(
                "the moving average (EMA) in the checkpoint does not fit this run: it has other "
                f"names or shapes for {len(different)} tensors ({shown}). Resume with the model "
                "and the train.freeze of the run that wrote it."
            )
        for name, average in self._averages.items():
            average.copy_(shard_like(state[name], average))


def build_average(
    cfg: DictConfig, model: nn.Module, optimizer: torch.optim.Optimizer
) -> WeightAverage | None:
    """Return the average that ``cfg.train.model_ema`` asks for, which follows the optimizer.

    Args:
        cfg: ``train.model_ema`` has ``enabled`` and ``decay``.
        model: with the weights that the run starts from.
        optimizer: holds its parameters.

    Raises:
        UsageError: the decay is out of range.
    """
    options = cfg.train.get("model_ema") or {}
    if not options.get("enabled", False):
        return None
    average = WeightAverage(model, options.get("decay", 0.999))
    average.follow(optimizer)
    return average


def restore_average(average: WeightAverage | None, checkpoint: Mapping[str, object]) -> None:
    """Continue the average of the checkpoint from which a run resumes.

    Args:
        average: the average of this run; None if it has none.
        checkpoint: what else the checkpoint holds in addition to the weights.

    Raises:
        UsageError: the checkpoint has no average, or that of another model.
    """
    stored = checkpoint.get(MODEL_EMA)
    if average is None:
        if stored:
            logger.warning(
                "The checkpoint holds a moving average (EMA) of the weights, which this run does "
                "not continue, because train.model_ema.enabled is False."
            )
        return
    if not stored:
        raise UsageError(
            "train.model_ema.enabled=True, but the run to resume has no moving average (EMA) in "
            "its checkpoint. Resume with train.model_ema.enabled=False, or start a new run from "
            "these weights with train.init_checkpoint."
        )
    average.load_state_dict(stored)
