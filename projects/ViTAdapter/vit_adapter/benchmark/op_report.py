"""The tables and the chart of ``benchmark_op.py``."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: no window system is needed

import matplotlib.pyplot as plt  # noqa: E402

Record = dict[str, Any]

_HEADER = (
    "| case | implementation | forward ms | forward + backward ms | gain | share of bound | "
    "error of output / gradients | memory MiB |"
)


def to_markdown(
    machine: str,
    overhead: Mapping[str, float],
    absent: Mapping[str, str],
    records: Sequence[Record],
) -> str:
    """Return a table for each dtype and kind of points, after the overhead of a call.

    Gains are relative to `grid_sample`.

    Args:
        machine: where the figures are from.
        overhead: see :func:`measure_overhead`.
        absent: why implementations are not there, by name.
        records: of all cases, see :func:`vit_adapter.benchmark.op.measure`.
    """
    lines = [machine, ""]
    if overhead:
        times = ", ".join(f"{name} {time:.1f} us" for name, time in overhead.items())
        lines += [f"A call that reads one point of one channel: {times}.", ""]
    if absent:
        lines += [
            "Absent: " + "; ".join(f"{name} ({why})" for name, why in absent.items()) + ".",
            "",
        ]
    for (dtype, points), group in _settings(records):
        lines += [f"### {dtype}, {points} points", "", _HEADER, "|---" * 8 + "|"]
        lines += [_row(record) for record in group]
        lines.append("")
    return "\n".join(lines)


def _row(record: Record) -> str:
    cells = [record["case"], record["formulation"]]
    if "error" in record:
        cells += [record["error"].replace("|", "\\|"), "", "", "", "", ""]
        return "| " + " | ".join(cells) + " |"
    cells += [
        _milliseconds(record["forward_ms"]),
        _milliseconds(record["training_ms"]),
        f"{record['forward_gain']:.1f}x / {record['training_gain']:.1f}x",
        f"{record['forward_share_of_bound']:.0%} / {record['training_share_of_bound']:.0%}",
        f"{record['error_output']:.0e} / {record['error_gradients']:.0e}",
        f"{record['peak_mib']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def _settings(records: Sequence[Record]) -> Iterator[tuple[tuple[str, str], list[Record]]]:
    """Yield the records of each (dtype, points), which are consecutive."""
    for key, group in itertools.groupby(records, lambda r: (r["dtype"], r["points"])):
        yield key, list(group)


def to_picture(machine: str, records: Sequence[Record], path: Path) -> None:
    """Draw the times as bars on a logarithmic scale, one row of axes per dtype and points."""
    settings = list(_settings(records))
    figure, axes = plt.subplots(
        len(settings), 2, figsize=(13, 3.2 * len(settings) + 0.8), squeeze=False, sharey="row"
    )
    for row, ((dtype, points), group) in zip(axes, settings, strict=True):
        for axis, what in zip(row, ("forward", "training"), strict=True):
            _bars(axis, group, f"{what}_ms")
            title = {"forward": "forward", "training": "forward + backward"}[what]
            axis.set_title(f"{title}, {dtype}, {points} points", fontsize=9)
        row[0].set_ylabel("ms")
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(f"Multi-scale deformable attention, batch 1\n{machine}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(axis: plt.Axes, records: Sequence[Record], field: str) -> None:
    cases = list(dict.fromkeys(record["case"] for record in records))
    names = list(dict.fromkeys(record["formulation"] for record in records))
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        chosen = [r for r in records if r["formulation"] == name and "error" not in r]
        places = [cases.index(r["case"]) + (index - (len(names) - 1) / 2) * width for r in chosen]
        axis.bar(places, [record[field] for record in chosen], width, label=name)
    axis.set_yscale("log")
    axis.set_xticks(range(len(cases)), cases, fontsize=8)
    axis.grid(axis="y", alpha=0.4)
