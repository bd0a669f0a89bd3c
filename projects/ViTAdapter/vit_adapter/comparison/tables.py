"""Tables of a comparison, and its content as JSON."""

import math
from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import Any

from tabulate import tabulate

from vit_adapter.comparison.bootstrap import Difference
from vit_adapter.comparison.compare import Comparison

__all__ = ["describe_difference", "format_comparison", "to_json"]

_TITLES = {
    "bbox": "Boxes",
    "segm": "Masks",
    "sem_seg": "Semantic segmentation",
    "panoptic_seg": "Panoptic segmentation",
}
_VERDICTS = {
    "same training": ": within noise, because A and B are seeds of one training: their configs "
    "differ in nothing else.",
    "noise": ": within noise, because zero lies in the interval.",
    "beyond images": ": {better} is better by more than the choice of test images explains. One "
    "run of each cannot tell a better training from a lucky seed; compare several seeds: --a RUN "
    "RUN --b RUN RUN.",
    "beyond images and runs": ": {better} is better by more than the choice of test images and the "
    "spread of the runs explain.",
}


def format_comparison(comparison: Comparison) -> str:
    """Return Markdown tables of metrics, classes and types of errors, all in percent."""
    parts = [f"## {_TITLES[comparison.task]}", _table("metric", comparison.metrics, comparison)]
    if len(comparison.classes) > 1:
        table = _table("class", comparison.classes, comparison)
        parts += [f"{comparison.main} by class:", table]
    if comparison.errors:
        rows = [
            [name, f"{one:.1f}", f"{other:.1f}", f"{other - one:+.1f}"]
            for name, (one, other) in comparison.errors.items()
        ]
        parts += [
            "What AP50 would gain without the errors of a type (TIDE):",
            _format(rows, ["error", "A", "B", "B - A"]),
        ]
    return "\n\n".join(parts)


def describe_difference(comparison: Comparison) -> str:
    """Return what the comparison says about the main metric, in one or two sentences."""
    found = comparison.metrics[comparison.main]
    difference = (
        f"{_TITLES[comparison.task]}: {comparison.main} differs by {found.change:+.1f} (95 % "
        f"interval {found.low:+.1f} to {found.high:+.1f})"
    )
    better = "B" if found.change > 0 else "A"
    return difference + _VERDICTS[comparison.verdict].format(better=better)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the content of a comparison with null for what does not exist."""
    content = {
        key: {name: _plain(found, comparison) for name, found in getattr(comparison, key).items()}
        for key in ("metrics", "classes")
    }
    return {
        "task": comparison.task,
        "runs": list(comparison.runs),
        "covers_runs": comparison.covers_runs,
        "same_training": comparison.same_training,
        "verdict": comparison.verdict,
        **content,
        "errors": dict(comparison.errors),
    }


def _plain(found: Difference, comparison: Comparison) -> dict[str, Any]:
    return {
        "first": _number(found.first),
        "second": _number(found.second),
        "change": _number(found.change),
        "low": _number(found.low),
        "high": _number(found.high),
        "first_runs": [_number(value) for value in found.firsts],
        "second_runs": [_number(value) for value in found.seconds],
        "is_noise": comparison.is_noise(found),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _table(kind: str, differences: Mapping[str, Difference], comparison: Comparison) -> str:
    rows = [
        [
            name,
            _mean_of_runs(found.firsts),
            _mean_of_runs(found.seconds),
            f"{found.change:+.1f}",
            f"{found.low:+.1f} to {found.high:+.1f}",
            "within noise" if comparison.is_noise(found) else "",
        ]
        for name, found in differences.items()
        if not math.isnan(found.change)
    ]
    covered = "images, runs" if comparison.covers_runs else "images"
    return _format(rows, [kind, "A", "B", "B - A", f"95 % interval ({covered})", ""])


def _mean_of_runs(values: Sequence[float]) -> str:
    """The mean, and the standard deviation if there are several runs."""
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {stdev(values):.1f}"


def _format(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, stralign="right")
