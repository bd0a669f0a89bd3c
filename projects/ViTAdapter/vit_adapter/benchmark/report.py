"""Tables and picture of measured models."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no window system is needed

import matplotlib.pyplot as plt  # noqa: E402

from vit_adapter.benchmark.measurement import Record  # noqa: E402

__all__ = ["to_markdown", "to_picture"]


# Components in the order in which images pass through them; those of heads come before the last.
_FIRST = ("input", "ViT", "spatial prior", "interactions", "pyramid", "neck")
_LAST = ("post-processing",)


def to_markdown(machine: str, records: Sequence[Record]) -> str:
    """Return three tables: medians of all variants side by side, all figures, and components."""
    settings, common = _settings(records)
    tables = [make(records, settings) for make in (_overview, _details, _components)]
    return "\n\n".join([machine, common, *filter(None, tables)]) + "\n"


def _settings(records: Sequence[Record]) -> tuple[list[str], str]:
    """Return what each record measures, such as "name, 512x512, batch 1", and what is common."""
    texts = [
        f"{record['size'][0]}x{record['size'][1]}, batch {record['batch_size']}"
        for record in records
    ]
    training = any(record["training"] for record in records)
    run = "training steps with AdamW" if training else "inference"
    if len(set(texts)) == 1:
        return [record["config"] for record in records], f"{run}, {texts[0]}"
    names = [f"{record['config']}, {text}" for record, text in zip(records, texts, strict=True)]
    return names, run


def variant_label(record: Record) -> str:
    """Name the variant of a record, such as "bf16, compiled"."""
    parts = [record["precision"]]
    parts += [record["mode"]] if record["mode"] != "eager" else []
    parts += ["plain op"] if record["plain_op"] else []
    return ", ".join(parts)


def _overview(records: Sequence[Record], settings: Sequence[str]) -> str:
    """A row for each model and setting, a column with the median for each variant."""
    variants = list(dict.fromkeys(map(variant_label, records)))
    rows: dict[str, dict[str, Record]] = {}
    for record, setting in zip(records, settings, strict=True):
        rows.setdefault(setting, {})[variant_label(record)] = record
    header = ["model", "parameters (M)", "GFLOP", *(f"{variant} (ms)" for variant in variants)]
    lines = []
    for setting, by_variant in rows.items():
        one = next(iter(by_variant.values()))
        operations = "failed" if one["flops"] is None else _number(one["flops"] / 1e9)
        cells = [setting, f"{one['parameters'] / 1e6:.1f}", operations]
        lines.append([*cells, *(_median(by_variant.get(variant)) for variant in variants)])
    return _table(header, lines)


def _median(record: Record | None) -> str:
    if record is None:
        return ""
    return "failed" if "error" in record else _number(record["latency_ms"]["p50"])


def _details(records: Sequence[Record], settings: Sequence[str]) -> str:
    """A row for each record."""
    header = ["model", "variant", "images/s", "p50 (ms)", "p90 (ms)", "p99 (ms)", "memory (MiB)"]
    lines = []
    for record, setting in zip(records, settings, strict=True):
        cells = [setting, variant_label(record)]
        if "error" in record:
            cells += [record["error"].replace("|", "\\|"), "", "", "", ""]
        else:
            cells.append(f"{record['images_per_second']:.3g}")
            cells += [_number(value) for value in record["latency_ms"].values()]
            memory = record.get("memory_mib")
            cells.append("" if memory is None else f"{memory:.0f}")
        lines.append(cells)
    return _table(header, lines)


def _components(records: Sequence[Record], settings: Sequence[str]) -> str:
    """A row for each record with times by component."""
    labels = _component_labels(records)
    lines = []
    for record, setting in zip(records, settings, strict=True):
        times = record.get("components_ms")
        if times:
            cells = [_number(times[label]) if label in times else "" for label in labels]
            lines.append([setting, variant_label(record), *cells])
    header = ["model", "variant", *(f"{label} (ms)" for label in labels)]
    return _table(header, lines) if lines else ""


def _component_labels(records: Sequence[Record]) -> list[str]:
    """Return the components of all records in a natural order."""
    found = dict.fromkeys(label for record in records for label in record.get("components_ms", ()))
    heads = [label for label in found if label not in _FIRST + _LAST]
    return [label for label in (*_FIRST, *heads, *_LAST) if label in found]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def to_picture(machine: str, records: Sequence[Record], path: Path) -> None:
    """Draw images a second by variant, and beside them the time by component."""
    names, common = _settings(records)
    settings = list(dict.fromkeys(names))
    rows = [settings.index(name) for name in names]
    figure, axes = plt.subplots(1, 2, figsize=(15, 1.8 + 0.5 * len(settings)), sharey=True)
    _draw_speeds(axes[0], records, rows)
    _draw_components(axes[1], records, rows)
    axes[0].set_yticks(range(len(settings)), settings, fontsize=8)
    axes[0].invert_yaxis()
    for axis in axes:
        axis.grid(axis="x", alpha=0.4)
        if axis.containers:
            axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(f"{machine}\n{common}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_speeds(axis: plt.Axes, records: Sequence[Record], rows: Sequence[int]) -> None:
    """Draw a bar for each record that did not fail."""
    variants = list(dict.fromkeys(map(variant_label, records)))
    height = 0.8 / len(variants)
    for index, variant in enumerate(variants):
        chosen = [
            (row + (index - (len(variants) - 1) / 2) * height, record["images_per_second"])
            for row, record in zip(rows, records, strict=True)
            if variant_label(record) == variant and "error" not in record
        ]
        if chosen:
            axis.barh(*zip(*chosen, strict=True), height, label=variant)
    axis.set_title("images a second", fontsize=10)


def _draw_components(axis: plt.Axes, records: Sequence[Record], rows: Sequence[int]) -> None:
    """Draw a stack for each record of the first variant that has components."""
    timed = [(row, r) for row, r in zip(rows, records, strict=True) if "components_ms" in r]
    if not timed:
        axis.set_visible(False)
        return
    variant = variant_label(timed[0][1])
    chosen = {row: r["components_ms"] for row, r in timed if variant_label(r) == variant}
    left = dict.fromkeys(chosen, 0.0)
    labels = _component_labels(records)
    for label, color in zip(labels, itertools.cycle(plt.cm.tab20.colors), strict=False):
        times = {row: components.get(label, 0.0) for row, components in chosen.items()}
        axis.barh(
            list(times), list(times.values()), 0.6, list(left.values()), label=label, color=color
        )
        left = {row: start + times[row] for row, start in left.items()}
    axis.set_title(f"ms by component, {variant}", fontsize=10)
