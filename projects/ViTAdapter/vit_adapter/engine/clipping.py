"""Gradients that are too large: ``train.clip_grad_norm``."""

import math

from detectron2.engine import HookBase
from torch import nn

from vit_adapter.config.errors import UsageError

__all__ = ["GradientClipping"]


class GradientClipping(HookBase):
    """Scales the gradients down so that their L2 norm over all parameters is at most a number.

    Args:
        max_norm: the number, > 0.

    Raises:
        UsageError: the number is out of range.
    """

    def __init__(self, max_norm: float) -> None:
        if not (isinstance(max_norm, int | float) and math.isfinite(max_norm) and max_norm > 0):
            raise UsageError(
                "train.clip_grad_norm must be a positive number, or null to leave the gradients "
                f"as they are; got {max_norm!r}"
            )
        self._max_norm = max_norm

    def after_backward(self) -> None:
        """Clip the gradients, which have no loss scale in them any more."""
        nn.utils.clip_grad_norm_(self.trainer.model.parameters(), self._max_norm)
