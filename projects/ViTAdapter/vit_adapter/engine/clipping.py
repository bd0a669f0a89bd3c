"""Gradients that are too large: ``train.clip_grad``."""

import math

from detectron2.engine import HookBase
from omegaconf import DictConfig
from torch import nn

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.parallel import whole_tensor

__all__ = ["GradientClipping", "clipping_hooks"]


class GradientClipping(HookBase):
    """Scales the gradients down so that their norm over all parameters is at most a number.

    The norm before that is recorded as ``grad_norm``.

    Args:
        max_norm: the number, > 0.
        norm_type: the p of the p-norm, > 0: 2 for the Euclidean norm, infinity for the largest
            absolute value.

    Raises:
        UsageError: a number is out of range.
    """

    def __init__(self, max_norm: float, norm_type: float = 2.0) -> None:
        if not (_is_positive(max_norm) and math.isfinite(max_norm)):
            raise UsageError(
                f"train.clip_grad.params.max_norm={max_norm!r}, expected a positive number; to "
                "leave the gradients as they are, use train.clip_grad.enabled=False."
            )
        if not _is_positive(norm_type):
            raise UsageError(
                f"train.clip_grad.params.norm_type={norm_type!r}, expected a positive number such "
                "as 2, or inf."
            )
        self._options = {"max_norm": max_norm, "norm_type": norm_type}

    def after_backward(self) -> None:
        """Clip the gradients, which have no loss scale in them any more."""
        norm = nn.utils.clip_grad_norm_(self.trainer.model.parameters(), **self._options)
        self.trainer.record(grad_norm=whole_tensor(norm))


def clipping_hooks(cfg: DictConfig) -> list[HookBase]:
    """Return the hook that ``train.clip_grad`` asks for, if any.

    Args:
        cfg: ``train.clip_grad`` has ``enabled``, and in ``params`` the arguments of
            :class:`GradientClipping`.

    Raises:
        UsageError: an argument is out of range, or the config has the older
            ``train.clip_grad_norm``.
    """
    if cfg.train.get("clip_grad_norm") is not None:
        raise UsageError(
            f"train.clip_grad_norm={cfg.train.clip_grad_norm} has a new name: use "
            f"train.clip_grad.enabled=True train.clip_grad.params.max_norm="
            f"{cfg.train.clip_grad_norm}, and remove train.clip_grad_norm from the config."
        )
    options = cfg.train.get("clip_grad") or {}
    return [GradientClipping(**options.params)] if options.get("enabled") else []


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
