"""Learning-rate multipliers as functions of progress (fvcore's ``ParamScheduler`` protocol)."""

import math
from bisect import bisect_right
from collections.abc import Sequence

from fvcore.common.param_scheduler import ParamScheduler

# Progress is iteration / max_iter in floating point; this undoes the rounding of the division.
_EPSILON = 1e-6


class _Ramp:
    """Straight line from ``warmup_factor`` at iteration 0 to 1 at iteration ``warmup_iters``.

    Args:
        warmup_iters: length of the ramp in iterations; 0 for none.
        warmup_factor: start of the ramp, in [0, 1].

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, warmup_iters: int, warmup_factor: float) -> None:
        if warmup_iters < 0 or not 0.0 <= warmup_factor <= 1.0:
            raise ValueError(
                f"warmup_iters must be >= 0 and warmup_factor in [0, 1], "
                f"got {warmup_iters} and {warmup_factor}"
            )
        self.warmup_iters = warmup_iters
        self.warmup_factor = warmup_factor

    def __call__(self, iteration: int) -> float:
        """Factor at an iteration, counted from 0; 1 after the ramp."""
        if iteration >= self.warmup_iters:
            return 1.0
        return self.warmup_factor + (1.0 - self.warmup_factor) * iteration / self.warmup_iters


class WarmupMultiStep(ParamScheduler):
    """Steps down at given epochs, times a linear ramp over the first iterations.

    Iteration i (from 0) gets ``gamma ** n * ramp``. Here n milestones are at or before i, and ramp
    rises from ``warmup_factor`` at iteration 0 to 1 at iteration ``warmup_iters``. With another
    ``max_iter`` the milestones scale, so the shape is the same; the warm-up does not scale.

    Args:
        max_iter: iterations of the whole run, >= 1.
        epochs: length of the whole run in the unit of the milestones, >= 1.
        milestones: increasing epochs between 0 and ``epochs``, both exclusive; may be empty.
        gamma: factor of one step, > 0.
        warmup_iters: length of the ramp in iterations; 0 for none.
        warmup_factor: start of the ramp, in [0, 1].

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        max_iter: int,
        epochs: int,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_iters: int = 500,
        warmup_factor: float = 0.001,
    ) -> None:
        if max_iter < 1 or epochs < 1:
            raise ValueError(f"max_iter and epochs must be >= 1, got {max_iter} and {epochs}")
        bounds = [0, *milestones, epochs]
        if any(left >= right for left, right in zip(bounds, bounds[1:], strict=False)):
            raise ValueError(
                f"milestones must increase between 0 and epochs={epochs}, got {list(milestones)}"
            )
        if gamma <= 0:
            raise ValueError(f"gamma must be > 0, got {gamma}")
        self.max_iter = max_iter
        self.milestones = [round(max_iter * milestone / epochs) for milestone in milestones]
        self.gamma = gamma
        self.warmup = _Ramp(warmup_iters, warmup_factor)

    def __call__(self, where: float) -> float:
        """Multiplier of the base learning rate at progress ``where`` = iteration / max_iter."""
        iteration = math.floor(where * self.max_iter + _EPSILON)
        return self.gamma ** bisect_right(self.milestones, iteration) * self.warmup(iteration)


class WarmupCosine(ParamScheduler):
    """Half a cosine from 1 to ``end_factor``, one step an epoch, times a linear ramp at the start.

    Iteration i (from 0) gets ``end_factor + (1 - end_factor) * (1 + cos(pi * e / epochs)) / 2``,
    where e = 0, 1, ... is its epoch, times the ramp, which rises from ``warmup_factor`` at
    iteration 0 to 1 at iteration ``warmup_iters``. With another ``max_iter`` the epochs scale, so
    the shape is the same; the warm-up does not scale.

    Args:
        max_iter: iterations of the whole run, >= 1.
        epochs: steps of the whole run, >= 1.
        end_factor: end of the cosine, in [0, 1]; the last epoch is one step above it.
        warmup_iters: length of the ramp in iterations; 0 for none.
        warmup_factor: start of the ramp, in [0, 1].

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        max_iter: int,
        epochs: int,
        end_factor: float = 0.0,
        warmup_iters: int = 500,
        warmup_factor: float = 0.001,
    ) -> None:
        if max_iter < 1 or epochs < 1:
            raise ValueError(f"max_iter and epochs must be >= 1, got {max_iter} and {epochs}")
        if not 0.0 <= end_factor <= 1.0:
            raise ValueError(f"end_factor must be in [0, 1], got {end_factor}")
        self.max_iter = max_iter
        self.epochs = epochs
        self.end_factor = end_factor
        self.warmup = _Ramp(warmup_iters, warmup_factor)

    def __call__(self, where: float) -> float:
        """Multiplier of the base learning rate at progress ``where`` = iteration / max_iter."""
        iteration = math.floor(where * self.max_iter + _EPSILON)
        epoch = iteration * self.epochs // self.max_iter
        cosine = (1.0 + math.cos(math.pi * epoch / self.epochs)) / 2.0
        return (self.end_factor + (1.0 - self.end_factor) * cosine) * self.warmup(iteration)


class WarmupPoly(ParamScheduler):
    """Polynomial decay to 0, times a linear ramp over the first iterations.

    Iteration i (from 0) gets ``(1 - i / max_iter) ** power * ramp``, where ramp rises from
    ``warmup_factor`` at iteration 0 to 1 at iteration ``warmup_iters``, while the decay has already
    begun. With another ``max_iter`` the shape is the same, except that the ramp does not scale.

    Args:
        max_iter: iterations of the whole run, >= 1.
        power: power of the decay, > 0; 1 for a straight line.
        warmup_iters: length of the ramp in iterations; 0 for none.
        warmup_factor: start of the ramp, in [0, 1].

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        max_iter: int,
        power: float = 1.0,
        warmup_iters: int = 1500,
        warmup_factor: float = 1e-6,
    ) -> None:
        if max_iter < 1:
            raise ValueError(f"max_iter must be >= 1, got {max_iter}")
        if power <= 0:
            raise ValueError(f"power must be > 0, got {power}")
        self.max_iter = max_iter
        self.power = power
        self.warmup = _Ramp(warmup_iters, warmup_factor)

    def __call__(self, where: float) -> float:
        """Multiplier of the base learning rate at progress ``where`` = iteration / max_iter."""
        iteration = math.floor(where * self.max_iter + _EPSILON)
        return (1.0 - iteration / self.max_iter) ** self.power * self.warmup(iteration)
