"""The differences between two results on the same data.

Shapes: R resamples, N images, K classes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from vit_adapter.comparison.average_precision import average_precision, find_matches
from vit_adapter.comparison.bootstrap import Difference, draw_weights
from vit_adapter.comparison.error_types import error_types
from vit_adapter.comparison.results import Result
from vit_adapter.comparison.trainings import (
    are_one_training,
    check_different_runs,
    warn_of_mixed_trainings,
)
from vit_adapter.config.errors import UsageError
from vit_adapter.evaluation.panoptic_quality import compute_quality
from vit_adapter.evaluation.sem_seg import mean_of_existing, metrics_of_sums

__all__ = ["Comparison", "compare"]

_MAIN = {"bbox": "AP", "segm": "AP", "sem_seg": "mIoU", "panoptic_seg": "PQ"}
_Values = Mapping[str, np.ndarray]


class _Sample(NamedTuple):
    """Metrics of a run (1 + R,) by name, first those of all images; and its types of errors."""

    metrics: _Values
    classes: _Values
    errors: Mapping[str, float] = {}


@dataclass(frozen=True)
class Comparison:
    """The differences in one task.

    Attributes:
        task: "bbox", "segm", "sem_seg" or "panoptic_seg".
        metrics: over all classes, also by size.
        classes: the main metric of each class.
        errors: for each TIDE error, how much AP50 would gain without it, in percent, as the mean
            over the runs of both sides; empty without hotcoco.
        runs: number of runs of both sides.
        same_training: whether all runs are known to be seeds of one training.
    """

    task: str
    metrics: Mapping[str, Difference]
    classes: Mapping[str, Difference]
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    runs: tuple[int, int] = (1, 1)
    same_training: bool = False

    @property
    def main(self) -> str:
        """Name of the metric that decides."""
        return _MAIN[self.task]

    @property
    def covers_runs(self) -> bool:
        """Whether the intervals cover the spread of the runs, and not only the choice of images."""
        return sum(self.runs) > 2

    @property
    def verdict(self) -> str:
        """What the main metric says.

        "same training": the difference is that of seeds. "noise": zero lies in the interval.
        "beyond images": it does not, but another seed could differ as much. "beyond images and
        runs": neither images nor seeds explain the difference.
        """
        if self.same_training:
            return "same training"
        if self.is_noise(self.metrics[self.main]):
            return "noise"
        return "beyond images and runs" if self.covers_runs else "beyond images"

    def is_noise(self, found: Difference) -> bool:
        """Whether a difference is noise: of the images, the runs, or seeds of one training."""
        return self.same_training or found.is_noise


def compare(
    first: Sequence[Result], second: Sequence[Result], *, resamples: int = 1000, seed: int = 0
) -> list[Comparison]:
    """Compare the runs of two sides in all tasks that all of them have.

    Each resample draws images with replacement, the same for all runs. With one run per side, the
    95 % interval of a difference is that of its percentiles. It says how much depends on the choice
    of test images, and nothing about another seed of the training. With more runs, their spread is
    added (:mod:`vit_adapter.comparison.bootstrap`).

    Args:
        first, second: one or more runs of a training each, all on the same data.
        resamples: number of resamples, R.
        seed: of the resamples.

    Raises:
        UsageError: there is no common task, the data differ, or a run is given twice.
    """
    runs = [*first, *second]
    if len(runs) > 2:
        check_different_runs(runs)
    for side in (first, second):
        warn_of_mixed_trainings(side)
    with_predictions = all(result.predictions is not None for result in runs)
    samples: dict[str, list[_Sample]] = {}
    if with_predictions:
        for other in runs[1:]:
            _check_same_truth(runs[0], other)
        for task in _detection_tasks(runs):
            weights = _weights(len(runs[0].truth["images"]), resamples, seed)
            samples[task] = [_detection_sample(result, task, weights) for result in runs]
    for task in sorted(set.intersection(*(set(result.counts) for result in runs))):
        for other in runs[1:]:
            _check_same_labels(runs[0], other, task)
        weights = _weights(len(runs[0].counts[task].images), resamples, seed)
        samples[task] = [_counts_sample(result, task, weights) for result in runs]
    if not samples:
        tasks = [f"{result.source} has results for {_tasks_of(result)}" for result in runs]
        raise UsageError(f"{', '.join(tasks)}: there is nothing to compare.")
    same = are_one_training(runs)
    return [
        Comparison(
            task,
            _differences([part.metrics for part in found], len(first)),
            _differences([part.classes for part in found], len(first)),
            _mean_errors([part.errors for part in found], len(first)),
            runs=(len(first), len(second)),
            same_training=same,
        )
        for task, found in samples.items()
    ]


def _weights(num_images: int, resamples: int, seed: int) -> np.ndarray:
    """How often each image counts (1 + R, N); once in the first row."""
    drawn = draw_weights(num_images, resamples, seed)
    return np.concatenate([np.ones((1, num_images), drawn.dtype), drawn])


def _tasks_of(result: Result) -> str:
    tasks = ["instances"] if result.predictions is not None else []
    return ", ".join([*tasks, *result.counts])


def _have_masks(entries: Sequence[Mapping[str, Any]]) -> bool:
    return all(entry.get("segmentation") for entry in entries)


def _check_same_truth(first: Result, second: Result) -> None:
    for what, key in (
        ("images", lambda truth: {image["id"] for image in truth["images"]}),
        ("classes", lambda truth: {(c["id"], c["name"]) for c in truth["categories"]}),
        ("objects", lambda truth: sorted(map(_describe, truth["annotations"]))),
    ):
        one, other = key(first.truth), key(second.truth)
        if one != other:
            raise UsageError(
                f"{first.source} and {second.source} were evaluated on different data: they have "
                f"{len(one)} and {len(other)} {what}, which are not the same."
            )
    if first.max_detections != second.max_detections:
        raise UsageError(
            f"{first.source} counts {first.max_detections} detections per image and "
            f"{second.source} {second.max_detections}; set max_dets_per_image alike."
        )
    images, categories = (
        {entry["id"] for entry in first.truth[key]} for key in ("images", "categories")
    )
    for result in (first, second):
        unknown = {entry["image_id"] for entry in result.predictions} - images
        if unknown:
            raise UsageError(
                f"{result.source} has predictions for {len(unknown)} images that are not in the "
                f"annotations, such as {min(unknown)!r}; give the annotations of the same data."
            )
        unknown = {entry["category_id"] for entry in result.predictions} - categories
        if unknown:
            raise UsageError(
                f"{result.source} has the category ids {_list(unknown)}, which are not among those "
                f"of the annotations, {_list(categories)}; give results with the ids of the "
                "annotations. (Ids from 0 may be class indices of a model.)"
            )


def _list(ids: Collection[int], most: int = 8) -> str:
    shown = [repr(identifier) for identifier in sorted(ids)[:most]]
    return ", ".join(shown) + (", ..." if len(ids) > most else "")


def _describe(annotation: Mapping[str, Any]) -> tuple:
    box = [round(float(value), 2) for value in annotation["bbox"]]
    return (str(annotation["image_id"]), annotation["category_id"], *box)


def _detection_tasks(runs: Sequence[Result]) -> list[str]:
    with_masks = all(_have_masks(result.predictions) for result in runs)
    if with_masks and _have_masks(runs[0].truth["annotations"]):
        return ["bbox", "segm"]
    return ["bbox"]


def _detection_sample(result: Result, task: str, weights: np.ndarray) -> _Sample:
    _, matches = find_matches(
        result.truth, result.predictions, task, max_detections=result.max_detections
    )
    # (1 + R, K, ranges of areas, IoU thresholds)
    precision = np.stack(
        [np.stack([average_precision(m, weights) for m in row], 1) for row in matches], 1
    )
    names = [c["name"] for c in sorted(result.truth["categories"], key=lambda c: c["id"])]
    classes = {name: precision[:, k, 0].mean(-1) for k, name in enumerate(names)}
    errors = error_types(
        result.truth, result.predictions, task, max_detections=result.max_detections
    )
    return _Sample(_detection_metrics(precision), classes, errors)


def _detection_metrics(precision: np.ndarray) -> _Values:
    """The metrics of COCO from AP by class, range of areas and IoU threshold."""
    ranges = dict(zip(("AP", "APs", "APm", "APl"), np.moveaxis(precision, 2, 0), strict=True))
    everything = ranges["AP"]
    metrics = {"AP": ranges["AP"], "AP50": everything[..., :1], "AP75": everything[..., 5:6]}
    metrics |= ranges
    return {name: mean_of_existing(part.reshape(len(part), -1)) for name, part in metrics.items()}


def _counts_sample(result: Result, task: str, weights: np.ndarray) -> _Sample:
    found = result.counts[task]
    sums = np.tensordot(weights, found.counts, axes=1)  # (1 + R, K, C)
    metrics: _Values
    if task == "sem_seg":
        by_class, _, metrics = metrics_of_sums(sums)
    else:
        quality = compute_quality(sums)
        by_class = quality.pq
        metrics = _panoptic_metrics(quality, np.isin(np.arange(len(found.classes)), result.things))
    return _Sample(metrics, {name: by_class[:, k] for k, name in enumerate(found.classes)})


def _panoptic_metrics(quality: Any, is_thing: np.ndarray) -> _Values:
    metrics = {
        key: mean_of_existing(values)
        for key, values in zip(("PQ", "SQ", "RQ"), quality, strict=True)
    }
    metrics["PQ_th"] = mean_of_existing(quality.pq[:, is_thing])
    metrics["PQ_st"] = mean_of_existing(quality.pq[:, ~is_thing])
    return metrics


def _check_same_labels(first: Result, second: Result, task: str) -> None:
    one, other = first.counts[task], second.counts[task]
    names = f"{first.source} and {second.source} were evaluated on different data: "
    for what, left, right in (
        ("images", one.images, other.images),
        ("classes", one.classes, other.classes),
    ):
        if left != right:
            raise UsageError(
                f"{names}they have {len(left)} and {len(right)} {what}, which are not the same."
            )
    if task == "sem_seg":
        labelled = one.counts[..., 1], other.counts[..., 1]
    else:  # matched and missed segments
        labelled = tuple(part.counts[..., 1] + part.counts[..., 3] for part in (one, other))
    differs = (labelled[0] != labelled[1]).any(axis=1)
    if task == "sem_seg" and differs.any():
        raise UsageError(f"{names}the labels of {one.images[differs.argmax()]} differ.")
    if task != "sem_seg" and not np.array_equal(labelled[0], labelled[1]):
        raise UsageError(f"{names}the segments of image {one.images[differs.argmax()]} differ.")


def _differences(samples: Sequence[_Values], num_first: int) -> dict[str, Difference]:
    """Differences between the metrics of the first runs and the others."""
    stacked = {name: np.stack([values[name] for values in samples]) for name in samples[0]}
    return {
        name: Difference.from_resamples(values[:num_first], values[num_first:])
        for name, values in stacked.items()
    }


def _mean_errors(
    errors: Sequence[Mapping[str, float]], num_first: int
) -> dict[str, tuple[float, float]]:
    """The means of both sides, of what all runs have."""
    names = [name for name in errors[0] if all(name in part for part in errors)]
    values = {name: [part[name] for part in errors] for name in names}
    return {n: (fmean(each[:num_first]), fmean(each[num_first:])) for n, each in values.items()}
