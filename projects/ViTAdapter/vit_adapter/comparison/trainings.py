"""Whether several runs are seeds of one training."""

import logging
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from vit_adapter.comparison.results import Result
from vit_adapter.config.errors import UsageError

__all__ = ["are_one_training", "check_different_runs", "warn_of_mixed_trainings"]

logger = logging.getLogger(__name__)

_SHOWN = 5  # keys in a message


def are_one_training(runs: Sequence[Result]) -> bool:
    """Whether all runs are known to have the same settings except for the seed."""
    if any(run.settings is None for run in runs) or _differing_keys(runs):
        return False
    # Runs with the same seed differ for another reason, such as a change of the code.
    seeds = [run.settings.seed for run in runs if run.settings.seed >= 0]
    return len(set(seeds)) == len(seeds)


def warn_of_mixed_trainings(side: Sequence[Result]) -> None:
    """Warn if the runs of a side are known to differ in more than their seeds."""
    keys = _differing_keys(side)
    if keys:
        more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
        logger.warning(
            "%s differ in more than the seed: %s%s. The interval treats them as seeds of one "
            "training.",
            " and ".join(str(run.source) for run in side),
            ", ".join(keys[:_SHOWN]),
            more,
        )


def check_different_runs(runs: Sequence[Result]) -> None:
    """Refuse runs with the same results, because they hide how much runs differ.

    Raises:
        UsageError: two runs have the same results.
    """
    for one, other in combinations(runs, 2):
        if _have_same_results(one, other):
            raise UsageError(
                f"{one.source} and {other.source} have exactly the same results, so they do not "
                "show how much runs differ; give runs with different seeds."
            )


def _differing_keys(runs: Sequence[Result]) -> list[str]:
    """The settings that are not the same in all runs whose settings are known."""
    known = [run.settings.values for run in runs if run.settings is not None]
    missing = object()
    return [
        key
        for key in sorted({key for values in known for key in values})
        if any(values.get(key, missing) != known[0].get(key, missing) for values in known)
    ]


def _have_same_results(one: Result, other: Result) -> bool:
    if one.predictions != other.predictions or one.counts.keys() != other.counts.keys():
        return False
    return all(
        np.array_equal(part.counts, other.counts[task].counts) for task, part in one.counts.items()
    )
