"""Intervals of a difference between runs, against scipy and by simulation."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from vit_adapter.comparison.bootstrap import Difference, draw_weights


def without_images(values: list[float]) -> np.ndarray:
    """Runs whose metric is the same in all resamples."""
    return np.repeat(np.array(values)[:, None], 11, axis=1)


def test_the_spread_of_runs_alone_gives_the_interval_of_a_t_test():
    firsts, seconds = [0.21, 0.25, 0.22], [0.29, 0.31]
    found = Difference.from_resamples(without_images(firsts), without_images(seconds))
    expected = ttest_ind(seconds, firsts).confidence_interval(0.95)
    assert found.low == pytest.approx(100 * expected.low)
    assert found.high == pytest.approx(100 * expected.high)
    assert found.first == pytest.approx(100 * np.mean(firsts)) and found.firsts == (21, 25, 22)


def test_images_alone_give_a_normal_interval():
    noise = np.random.default_rng(0).normal(0, 0.01, 500)
    firsts, seconds = np.full((2, 501), 0.2), np.full((2, 501), 0.3)
    seconds[:, 1:] += noise  # of images that change all runs of one side alike
    found = Difference.from_resamples(firsts, seconds)
    assert found.high - found.low == pytest.approx(100 * 2 * 1.96 * noise.std(ddof=1), rel=1e-3)


def test_images_that_change_all_runs_alike_do_not_widen_the_interval():
    noise = np.random.default_rng(0).normal(0, 0.1, 10)
    firsts, seconds = without_images([0.2, 0.21]), without_images([0.3, 0.32])
    before = Difference.from_resamples(firsts, seconds)
    firsts[:, 1:] += noise
    seconds[:, 1:] += noise
    after = Difference.from_resamples(firsts, seconds)
    assert (after.low, after.high) == pytest.approx((before.low, before.high))


def test_a_metric_that_does_not_exist_is_noise():
    firsts, seconds = without_images([0.2, 0.21]), without_images([0.3, np.nan])
    found = Difference.from_resamples(firsts, seconds)
    assert np.isnan(found.low) and np.isnan(found.change) and found.is_noise


@pytest.mark.parametrize(("runs", "low", "high"), [(1, 0.4, 0.8), (2, 0.01, 0.1)])
def test_seeds_of_one_training_rarely_differ_with_several_runs(runs, low, high):
    """Two equal trainings whose runs spread more than images explain, compared 200 times."""
    draw = np.random.default_rng(0)
    weights = np.concatenate([np.ones((1, 40), int), draw_weights(40, 100, seed=0)]) / 40
    images = draw.normal(0, 1, (200, 1, 1, 40))
    scores = images + draw.normal(0, 0.2, (200, 2, runs, 1))
    scores = scores + draw.normal(0, 0.5, (200, 2, runs, 40))
    values = scores @ weights.T
    different = [not Difference.from_resamples(*pair).is_noise for pair in values]
    assert low < np.mean(different) < high
