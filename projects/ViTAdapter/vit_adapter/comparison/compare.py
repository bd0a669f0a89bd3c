"""The differences between two results on the same data.

Shapes: R resamples, N images, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vit_adapter.comparison.average_precision import average_precision, find_matches
from vit_adapter.comparison.bootstrap import Difference, draw_weights
from vit_adapter.comparison.error_types import error_types
from vit_adapter.comparison.results import Result
from vit_adapter.config.errors import UsageError
from vit_adapter.evaluation.panoptic_quality import compute_quality
from vit_adapter.evaluation.per_image import ImageCounts
from vit_adapter.evaluation.sem_seg import mean_of_existing, metrics_of_sums

__all__ = ["Comparison", "compare"]

_MAIN = {"bbox": "AP", "segm": "AP", "sem_seg": "mIoU", "panoptic_seg": "PQ"}
_Samples = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """The differences in one task.

    Attributes:
        task: "bbox", "segm", "sem_seg" or "panoptic_seg".
        metrics: over all classes, also by size.
        classes: the main metric of each class.
        errors: for each TIDE error, how much AP50 would gain without it, in percent, of both
            results; empty without hotcoco.
    """

    task: str
    metrics: Mapping[str, Difference]
    classes: Mapping[str, Difference]
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def main(self) -> str:
        """Name of the metric that decides."""
        return _MAIN[self.task]


def compare(
    first: Result, second: Result, *, resamples: int = 1000, seed: int = 0
) -> list[Comparison]:
    """Compare two results in all tasks that both have.

    Each resample draws images with replacement, the same for both results. The 95 % interval of a
    difference is that of its percentiles. It says how much depends on the choice of test images,
    and nothing about another seed of the training.

    Args:
        first, second: on the same data.
        resamples: number of resamples, R.
        seed: of the resamples.

    Raises:
        UsageError: there is no common task, or the data differ.
    """
    options = dict(resamples=resamples, seed=seed)
    found = []
    if first.predictions is not None and second.predictions is not None:
        _check_same_truth(first, second)
        tasks = ["bbox"]
        with_masks = all(_have_masks(r.predictions) for r in (first, second))
        if with_masks and _have_masks(first.truth["annotations"]):
            tasks.append("segm")
        found += [_compare_detections(first, second, task, **options) for task in tasks]
    for task in sorted(first.counts.keys() & second.counts.keys()):
        found.append(_compare_counts(first, second, task, **options))
    if not found:
        raise UsageError(
            f"{first.source} has results for {_tasks_of(first)}, and {second.source} for "
            f"{_tasks_of(second)}: there is nothing to compare."
        )
    return found


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
    images = {image["id"] for image in first.truth["images"]}
    for result in (first, second):
        unknown = {entry["image_id"] for entry in result.predictions} - images
        if unknown:
            raise UsageError(
                f"{result.source} has predictions for {len(unknown)} images that are not in the "
                f"annotations, such as {min(unknown)!r}; give the annotations of the same data."
            )


def _describe(annotation: Mapping[str, Any]) -> tuple:
    box = [round(float(value), 2) for value in annotation["bbox"]]
    return (str(annotation["image_id"]), annotation["category_id"], *box)


def _compare_detections(
    first: Result, second: Result, task: str, *, resamples: int, seed: int
) -> Comparison:
    weights, samples = None, []
    for result in (first, second):
        images, matches = find_matches(
            result.truth, result.predictions, task, max_detections=result.max_detections
        )
        if weights is None:
            drawn = draw_weights(len(images), resamples, seed)
            weights = np.concatenate([np.ones((1, len(images)), drawn.dtype), drawn])
        samples.append(
            np.stack(
                [np.stack([average_precision(m, weights) for m in row], 1) for row in matches], 1
            )
        )  # (1 + R, K, ranges of areas, IoU thresholds)
    names = [c["name"] for c in sorted(first.truth["categories"], key=lambda c: c["id"])]
    metrics = _differences(*map(_detection_metrics, samples))
    classes = _differences(
        *({n: s[:, k, 0].mean(-1) for k, n in enumerate(names)} for s in samples)
    )
    errors = [
        error_types(r.truth, r.predictions, task, max_detections=r.max_detections)
        for r in (first, second)
    ]
    pairs = {name: (errors[0][name], errors[1][name]) for name in errors[0]}
    return Comparison(task, metrics, classes, pairs)


def _detection_metrics(precision: np.ndarray) -> _Samples:
    """The metrics of COCO from AP by class, range of areas and IoU threshold."""
    ranges = dict(zip(("AP", "APs", "APm", "APl"), np.moveaxis(precision, 2, 0), strict=True))
    everything = ranges["AP"]
    metrics = {"AP": ranges["AP"], "AP50": everything[..., :1], "AP75": everything[..., 5:6]}
    metrics |= ranges
    return {name: mean_of_existing(part.reshape(len(part), -1)) for name, part in metrics.items()}


def _compare_counts(
    first: Result, second: Result, task: str, *, resamples: int, seed: int
) -> Comparison:
    one, other = first.counts[task], second.counts[task]
    _check_same_labels(one, other, task, (first, second))
    drawn = draw_weights(len(one.images), resamples, seed)
    weights = np.concatenate([np.ones((1, len(one.images)), drawn.dtype), drawn])
    sums = [np.tensordot(weights, part.counts, axes=1) for part in (one, other)]  # (1 + R, K, C)
    metrics: list[_Samples]
    if task == "sem_seg":
        computed = [metrics_of_sums(part) for part in sums]
        by_class = [iou for iou, _, _ in computed]
        metrics = [values for _, _, values in computed]
    else:
        is_thing = np.isin(np.arange(len(one.classes)), first.things)
        qualities = [compute_quality(part) for part in sums]
        by_class = [quality.pq for quality in qualities]
        metrics = [_panoptic_metrics(quality, is_thing) for quality in qualities]
    named = ({n: part[:, k] for k, n in enumerate(one.classes)} for part in by_class)
    return Comparison(task, _differences(*metrics), _differences(*named))


def _panoptic_metrics(quality: Any, is_thing: np.ndarray) -> _Samples:
    metrics = {
        key: mean_of_existing(values)
        for key, values in zip(("PQ", "SQ", "RQ"), quality, strict=True)
    }
    metrics["PQ_th"] = mean_of_existing(quality.pq[:, is_thing])
    metrics["PQ_st"] = mean_of_existing(quality.pq[:, ~is_thing])
    return metrics


def _check_same_labels(
    one: ImageCounts, other: ImageCounts, task: str, results: tuple[Result, Result]
) -> None:
    names = f"{results[0].source} and {results[1].source} were evaluated on different data: "
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


def _differences(first: _Samples, second: _Samples) -> dict[str, Difference]:
    """Differences of metrics (1 + R,), whose first value is that of all images."""
    return {
        name: Difference.from_resamples(values[0], second[name][0], values[1:], second[name][1:])
        for name, values in first.items()
    }
