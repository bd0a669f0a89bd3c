"""Tables of a comparison, and its content as JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict
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


def format_comparison(comparison: Comparison) -> str:
    """Return Markdown tables of metrics, classes and types of errors, all in percent."""
    parts = [f"## {_TITLES[comparison.task]}", _table("metric", comparison.metrics)]
    if len(comparison.classes) > 1:
        parts += [f"{comparison.main} by class:", _table("class", comparison.classes)]
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
    """Return one sentence about the main metric."""
    name = f"{_TITLES[comparison.task]}: {comparison.main}"
    found = comparison.metrics[comparison.main]
    numbers = f"{found.change:+.1f} (95 % interval {found.low:+.1f} to {found.high:+.1f})"
    if found.is_noise:
        return f"{name} differs by {numbers}: within noise, because zero lies in the interval."
    return f"{name} differs by {numbers}: {'B' if found.change > 0 else 'A'} is better."


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the content of a comparison with null for what does not exist."""
    content = {
        key: {name: _plain(found) for name, found in getattr(comparison, key).items()}
        for key in ("metrics", "classes")
    }
    return {"task": comparison.task, **content, "errors": dict(comparison.errors)}


def _plain(found: Difference) -> dict[str, Any]:
    values = asdict(found) | {"change": found.change}
    numbers = {key: None if math.isnan(value) else value for key, value in values.items()}
    return numbers | {"is_noise": found.is_noise}


def _table(kind: str, differences: Mapping[str, Difference]) -> str:
    rows = [
        [
            name,
            f"{found.first:.1f}",
            f"{found.second:.1f}",
            f"{found.change:+.1f}",
            f"{found.low:+.1f} to {found.high:+.1f}",
            "within noise" if found.is_noise else "",
        ]
        for name, found in differences.items()
        if not math.isnan(found.change)
    ]
    return _format(rows, [kind, "A", "B", "B - A", "95 % interval", ""])


def _format(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, stralign="right")
