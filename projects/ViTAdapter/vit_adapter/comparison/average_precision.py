"""COCO's average precision of resampled images, without matching anything again.

Matches of detections and objects are found once, by pycocotools. An image that a resample contains
several times is one whose detections and objects count several times.

Shapes: R resamples, N images, K classes, A ranges of areas (all, small, medium, large), T IoU
thresholds, D detections.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

__all__ = ["Matches", "average_precision", "find_matches"]

_MAX_BLOCK = 4_000_000  # elements of the largest array


@dataclass(frozen=True)
class Matches:
    """What decides the AP of one class in one range of areas; detections are sorted by score.

    Attributes:
        images: (D,), the index of each detection's image.
        right: (T, D), whether it is a true positive.
        wrong: (T, D), whether it is a false positive. Some detections are neither.
        objects: (N,), number of objects that should be found in each image.
    """

    images: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray


def find_matches(
    truth: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    task: str,
    *,
    max_detections: int = 100,
) -> tuple[list[int], list[list[Matches]]]:
    """Match the predictions with the objects, as COCO's evaluation does.

    Args:
        truth: the content of a COCO file.
        predictions: in COCO's format of results.
        task: "bbox" or "segm".
        max_detections: most detections of a class in an image.

    Returns:
        The ids of the images in their order, and the matches of each class (K) and range (A).
    """
    if task == "segm":  # otherwise pycocotools takes the areas of the boxes
        predictions = [{k: v for k, v in entry.items() if k != "bbox"} for entry in predictions]
    with contextlib.redirect_stdout(io.StringIO()):  # these calls print
        labelled, found = COCO(), COCO()
        labelled.dataset = dict(truth)
        labelled.createIndex()
        if predictions:
            found = labelled.loadRes([dict(entry) for entry in predictions])
        else:
            found.dataset = {**truth, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(labelled, found, task)
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
    params = evaluation.params
    shape = (len(params.catIds), len(params.areaRng), len(params.imgIds))
    entries = np.empty(shape, dtype=object)
    entries.ravel()[:] = evaluation.evalImgs
    thresholds = len(params.iouThrs)
    return list(params.imgIds), [[_collect(part, thresholds) for part in row] for row in entries]


def _collect(entries: np.ndarray, thresholds: int) -> Matches:
    """Join the results of pycocotools for all images (N,) of one class and range."""
    objects = np.zeros(len(entries), dtype=np.int64)
    scores, images = [np.empty(0)], [np.empty(0, dtype=np.int64)]
    matched, ignored = ([np.empty((thresholds, 0), dtype=bool)] for _ in range(2))
    for index, entry in enumerate(entries):
        if entry is None:  # neither objects nor detections
            continue
        objects[index] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
        scores.append(np.asarray(entry["dtScores"], dtype=float))
        images.append(np.full(len(entry["dtScores"]), index))
        shape = (thresholds, len(entry["dtScores"]))
        matched.append(np.reshape(entry["dtMatches"], shape) != 0)
        ignored.append(np.reshape(entry["dtIgnore"], shape) != 0)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right, skipped = (np.concatenate(parts, axis=1)[:, order] for parts in (matched, ignored))
    counts = ~skipped.all(axis=0)
    right, skipped = right[:, counts], skipped[:, counts]
    kept = np.concatenate(images)[order][counts]
    return Matches(kept, right & ~skipped, ~right & ~skipped, objects)


def average_precision(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """Compute the AP of each resample.

    Args:
        matches: of one class and range of areas.
        weights: (R, N), how often each image counts.

    Returns:
        (R, T) in [0, 1]; NaN where no object should be found.
    """
    step = max(1, _MAX_BLOCK // max(1, matches.right.size))
    parts = [
        _interpolated_precision(matches, weights[start : start + step])
        for start in range(0, len(weights), step)
    ]
    return np.concatenate(parts)


def _interpolated_precision(matches: Matches, weights: np.ndarray) -> np.ndarray:
    objects = weights @ matches.objects  # (R,)
    num_thresholds, num_detections = matches.right.shape
    if num_detections == 0:
        none = np.where(objects == 0, np.nan, 0.0)
        return np.repeat(none[:, None], num_thresholds, axis=1)
    of_detections = weights[:, None, matches.images]  # (R, 1, D)
    found = np.cumsum(matches.right * of_detections, axis=2)  # (R, T, D)
    total = found + np.cumsum(matches.wrong * of_detections, axis=2)
    precision = np.zeros((*found.shape[:2], num_detections + 1))  # 0 for recall not reached
    precision[..., :-1] = found / (total + np.spacing(1))
    precision = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    needed = _needed_objects(objects)  # (R, 101)
    # Rows are searched at once: each is moved above all numbers of the one before.
    shift = (objects.max(initial=0) + 2) * np.arange(len(weights) * num_thresholds)
    rows = found.reshape(-1, num_detections) + shift[:, None]
    wanted = np.repeat(needed, num_thresholds, axis=0) + shift[:, None]
    first = np.searchsorted(rows.ravel(), wanted) - num_detections * np.arange(len(rows))[:, None]
    chosen = np.take_along_axis(precision.reshape(len(rows), -1), first, axis=1)
    result = chosen.mean(axis=1).reshape(len(weights), num_thresholds)
    result[objects == 0] = np.nan
    return result


def _needed_objects(objects: np.ndarray) -> np.ndarray:
    """The least number of objects (R, 101) that reaches each of COCO's recall thresholds."""
    recall = np.linspace(0, 1, 101)
    every = np.maximum(objects, 1)[:, None]
    needed = np.maximum(np.floor(recall * every).astype(np.int64) - 1, 0)
    for _ in range(3):  # exact, as COCO compares rounded quotients
        needed += needed / every < recall
    return needed
