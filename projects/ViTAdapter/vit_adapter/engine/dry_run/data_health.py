"""The health of the training and validation data of a run."""

import filecmp
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from omegaconf import DictConfig, OmegaConf

from vit_adapter.config.data_checks import dataset_names
from vit_adapter.config.input_channels import stored_channels
from vit_adapter.data.checks import class_names
from vit_adapter.data.instances.coco_problems import Problems
from vit_adapter.data.panoptic.map_checks import spread
from vit_adapter.engine.dry_run.records import boxes_of, check_records, read_all
from vit_adapter.engine.dry_run.report import Report

__all__ = ["check_data"]

Record = Mapping[str, Any]

NUM_DECODED = 1000  # images of each data set that are decoded, unless data.check_all is set
_TITLES = {"train": "Training data", "val": "Validation data"}
_SMALL, _LARGE = 32**2, 96**2  # areas that separate COCO's small, medium and large objects
_MAX_CLASSES = 12  # on the terminal


def check_data(cfg: DictConfig, report: Report) -> None:
    """Check all data sets of a config, and describe them.

    The names, ids and annotations of all images are checked. The headers of up to 5,000 images and
    the pixels of up to 1,000 are read, spread evenly over each data set; with ``data.check_all``
    the pixels of all.

    Args:
        cfg: with the names of registered data sets.
        report: gets a section for each data set.
    """
    kind = OmegaConf.select(cfg, "task.name", default="instances")
    most = None if OmegaConf.select(cfg, "data.check_all") else NUM_DECODED
    splits = {"train": dataset_names(cfg, "train")}
    if cfg.dataloader.get("evaluator") is not None:
        splits["val"] = dataset_names(cfg, "test")
    records = {
        split: [(n, DatasetCatalog.get(n)) for n in names] for split, names in splits.items()
    }
    for split, named in records.items():
        for name, found in named:
            if not found:
                report.problems.append(f"{name}: the data set has no images.")
                continue
            image_format = stored_channels(cfg) or "RGB"
            _check_one(split, name, found, kind, most, report, image_format)
    if "val" in records:
        _check_overlap(_files(records["train"]), _files(records["val"]), report)


def _check_one(
    split: str,
    name: str,
    records: Sequence[Record],
    kind: str,
    most: int | None,
    report: Report,
    image_format: str | int,
) -> None:
    """Check and describe one data set."""
    texts = check_records(name, records, kind, image_format=image_format)
    problems = Problems()
    chosen = records if most is None else spread(records, most)
    sizes, labels = read_all(name, chosen, kind, problems, image_format=image_format)
    report.problems += [f"{name}: {text}" for text in (*texts, *problems.describe_kinds())]
    values: dict[str, Any] = {"name": name, "images": len(records), "decoded": len(chosen)}
    rows = [("images", f"{len(records):,}, of which {len(chosen):,} were decoded")]
    if sizes:
        values["image_sizes"], text = _describe_sizes(sizes)
        rows.append(("width x height", text))
    count = {"instances": _count_boxes, "panoptic": _count_segments}.get(kind)
    if count is None:
        names, counts, unit = class_names(name, kind="stuff"), labels, "images that show it"
        counted = f"the {len(chosen):,} images"
    else:
        names = class_names(name, kind="stuff" if kind == "panoptic" else "thing")
        counts, unit, counted = count(records, values, rows), "objects", "the data set"
    by_name = {label: counts[index] for index, label in enumerate(names)}
    values["classes"] = by_name
    rows.append((f"classes, {unit}", _describe_classes(by_name)))
    absent = [label for label, number in by_name.items() if not number]
    if absent:
        shown = ", ".join(absent[:_MAX_CLASSES]) + (", ..." if len(absent) > _MAX_CLASSES else "")
        report.warnings.append(
            f"{name}: {len(absent)} of {len(names)} classes do not occur in {counted}: {shown}."
        )
    report.add_section(("data", split, name), f"{_TITLES[split]}: {name}", values, rows)


def _count_boxes(
    records: Sequence[Record], values: dict[str, Any], rows: list[tuple[str, str]]
) -> Counter[int]:
    """Count objects by class; add their sizes and the images without any."""
    counts: Counter[int] = Counter()
    areas, crowds, empty, flat = [], 0, 0, 0
    for record in records:
        learnt = 0
        for annotation, (_, _, width, height) in boxes_of(record):
            if annotation.get("iscrowd"):
                crowds += 1
                continue
            if not width * height > 0:
                flat += 1
                continue
            learnt += 1
            counts[annotation["category_id"]] += 1
            areas.append(width * height)
        empty += not learnt
    area = np.array(areas)
    shares = {
        "small": int((area < _SMALL).sum()),
        "medium": int(((area >= _SMALL) & (area < _LARGE)).sum()),
        "large": int((area >= _LARGE).sum()),
    }
    values.update(
        objects=len(areas),
        crowds=crowds,
        boxes_without_area=flat,
        images_without_objects=empty,
        object_sizes=shares,
    )
    sizes = ", ".join(f"{size} {number:,}" for size, number in shares.items())
    rows += [
        ("objects", f"{len(areas):,}, by the area of their boxes: {sizes}"),
        ("left out", f"{crowds:,} crowds, {flat:,} boxes without area"),
        ("images without objects", f"{empty:,}"),
    ]
    return counts


def _count_segments(
    records: Sequence[Record], values: dict[str, Any], rows: list[tuple[str, str]]
) -> Counter[int]:
    """Count segments by class, and those that are things."""
    segments = [segment for record in records for segment in record["segments_info"]]
    things = sum(bool(segment.get("isthing")) for segment in segments)
    crowds = sum(bool(segment.get("iscrowd")) for segment in segments)
    values.update(segments=len(segments), things=things, crowds=crowds)
    rows.append(("segments", f"{len(segments):,}, {things:,} of things, {crowds:,} crowds"))
    return Counter(segment["category_id"] for segment in segments if not segment.get("iscrowd"))


def _describe_sizes(sizes: Sequence[tuple[int, int]]) -> tuple[dict[str, list[int]], str]:
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    chosen = {
        "smallest": ordered[0],
        "median": ordered[len(ordered) // 2],
        "largest": ordered[-1],
    }
    text = ", ".join(f"{which} {size[1]} x {size[0]}" for which, size in chosen.items())
    return {which: list(size) for which, size in chosen.items()}, text


def _describe_classes(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown = ordered
    if len(ordered) > _MAX_CLASSES:
        half = _MAX_CLASSES // 2
        shown = [*ordered[:half], ("...", None), *ordered[-half:]]
    return f"{len(ordered)}: " + ", ".join(
        label if number is None else f"{label} {number:,}" for label, number in shown
    )


def _files(named: Sequence[tuple[str, Sequence[Record]]]) -> list[str]:
    return [record["file_name"] for _, records in named for record in records]


def _check_overlap(train: Sequence[str], val: Sequence[str], report: Report) -> None:
    """Warn of validation images that are also training images, by the content of their files.

    Only files of equal size are read, up to the first difference.
    """
    by_size = defaultdict(list)
    for file in dict.fromkeys(train):
        if os.path.isfile(file):
            by_size[os.path.getsize(file)].append(file)
    shared = []
    for file in dict.fromkeys(val):
        candidates = by_size.get(os.path.getsize(file), ()) if os.path.isfile(file) else ()
        twins = (other for other in candidates if filecmp.cmp(file, other, shallow=False))
        twin = next(twins, None)
        if twin is not None:
            shared.append(f"{file} is {twin}")
    if shared:
        more = ", ..." if len(shared) > 3 else ""
        report.warnings.append(
            f"{len(shared)} of {len(val)} validation images are training images too, so results "
            f"would look better than they are: {', '.join(shared[:3])}{more}."
        )
