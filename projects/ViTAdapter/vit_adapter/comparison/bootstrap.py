"""Paired bootstrap over images.

Shapes: R resamples, N images.
"""

from dataclasses import dataclass

import numpy as np

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
    """A metric of two results, in percent.

    Attributes:
        first: of the first result.
        second: of the second one.
        low, high: the 95 % interval of ``second - first``; NaN without a number in any resample.
    """

    first: float
    second: float
    low: float
    high: float

    @classmethod
    def from_resamples(
        cls, first: float, second: float, firsts: np.ndarray, seconds: np.ndarray
    ) -> "Difference":
        """Take the interval from the metric in the same resamples (R,) of both results.

        Resamples in which the metric does not exist (NaN), as without an object, are left out.
        """
        differences = seconds - firsts
        differences = differences[~np.isnan(differences)]
        low = high = float("nan")
        if len(differences):
            tail = (100 - _LEVEL) / 2
            low, high = np.percentile(differences, [tail, 100 - tail])
        return cls(*(100 * float(value) for value in (first, second, low, high)))

    @property
    def change(self) -> float:
        """``second - first``."""
        return self.second - self.first

    @property
    def is_noise(self) -> bool:
        """Whether zero lies in the interval, or there is none."""
        return not (self.low > 0 or self.high < 0)
