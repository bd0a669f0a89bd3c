"""Paired bootstrap over images, and the intervals of a difference.

With several runs of each training, the spread of the runs is part of the interval. The estimate is
that of Obuchowski and Rockette for readers nested in treatments, with Hillis's degrees of freedom
(Statistics in Medicine 2007, 26:596): a run is a reader, an image is a case.

Shapes: R resamples, N images, F and S runs of the first and the second side.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

__all__ = ["Difference", "draw_weights"]

_LEVEL = 95  # percent


def draw_weights(num_images: int, resamples: int, seed: int) -> np.ndarray:
    """Draw how often each image occurs in samples of as many images, with replacement.

    Returns:
        (R, N) integers; each row has the sum N.
    """
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)


@dataclass(frozen=True)
class Difference:
    """A metric of two sides, in percent.

    Attributes:
        firsts: of each run of the first side.
        seconds: of each run of the second side.
        low, high: the 95 % interval of ``change``; NaN without a number in any resample. With one
            run per side it covers the choice of images, otherwise also the spread of the runs.
    """

    firsts: tuple[float, ...]
    seconds: tuple[float, ...]
    low: float
    high: float

    @classmethod
    def from_resamples(cls, firsts: np.ndarray, seconds: np.ndarray) -> "Difference":
        """Take the interval from the metric in the same resamples of all runs.

        Resamples in which the metric does not exist (NaN), as without an object, are left out.

        Args:
            firsts: (F, 1 + R) in [0, 1], first the value of all images.
            seconds: (S, 1 + R).
        """
        several = len(firsts) + len(seconds) > 2
        low, high = (_interval_with_runs if several else _interval)(firsts, seconds)
        return cls(
            tuple(100 * float(value) for value in firsts[:, 0]),
            tuple(100 * float(value) for value in seconds[:, 0]),
            100 * float(low),
            100 * float(high),
        )

    @property
    def first(self) -> float:
        """Mean of the runs of the first side."""
        return sum(self.firsts) / len(self.firsts)

    @property
    def second(self) -> float:
        """Mean of the runs of the second side."""
        return sum(self.seconds) / len(self.seconds)

    @property
    def change(self) -> float:
        """``second - first``."""
        return self.second - self.first

    @property
    def is_noise(self) -> bool:
        """Whether zero lies in the interval, or there is none."""
        return not (self.low > 0 or self.high < 0)


def _interval(firsts: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """The percentiles of the difference between two runs (1, 1 + R)."""
    differences = (seconds - firsts)[0, 1:]
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return float("nan"), float("nan")
    tail = (100 - _LEVEL) / 2
    low, high = np.percentile(differences, [tail, 100 - tail])
    return low, high


def _interval_with_runs(firsts: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Student's interval of the difference between the means of runs."""
    num_first, num_second = len(firsts), len(seconds)
    resampled = np.concatenate([firsts, seconds])[:, 1:]
    resampled = resampled[:, ~np.isnan(resampled).any(axis=0)]
    if resampled.shape[1] < 2:
        return float("nan"), float("nan")
    values = firsts[:, 0], seconds[:, 0]
    freedom_of_runs = num_first + num_second - 2
    of_one_run = sum(((part - part.mean()) ** 2).sum() for part in values) / freedom_of_runs
    of_runs = of_one_run * (1 / num_first + 1 / num_second)
    # Runs differ on these very images, so what images do to single runs is in their spread. Added
    # is what images do to all runs of a side alike.
    covariance = np.cov(resampled)
    ones, others = slice(None, num_first), slice(num_first, None)
    of_images = _shared(covariance[ones, ones]) + _shared(covariance[others, others])
    of_images = max(0.0, of_images - 2 * covariance[ones, others].mean())
    total = of_runs + of_images
    with np.errstate(divide="ignore"):
        freedom = freedom_of_runs * np.divide(total, of_runs) ** 2 if total else np.inf
    half = student_t.ppf(0.5 + _LEVEL / 200, freedom) * np.sqrt(total)
    change = values[1].mean() - values[0].mean()
    return change - half, change + half


def _shared(covariance: np.ndarray) -> float:
    """The mean covariance of different runs, or the variance of the only one."""
    count = len(covariance)
    if count == 1:
        return float(covariance[0, 0])
    return float((covariance.sum() - np.trace(covariance)) / (count * (count - 1)))
