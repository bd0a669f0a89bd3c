"""Panoptic quality (arXiv 1801.00868), as the official evaluation of COCO counts it.

A predicted and a labelled segment of the same class match if their IoU is above 0.5. There is at
most one such partner. PQ of a class is the sum of the IoUs of its matches, divided by the number
of matches plus half the segments without a match, of either kind. PQ is the product of SQ, the mean
IoU of the matches, and RQ, the F1 score of the detection.

- Pixels without a label (void) do not count in the union of two segments.
- Crowds are never matched, and a crowd that nothing covers is no error.
- A predicted segment without a match is no error if more than half of it is void or lies on a
  crowd of its class.

Shapes: K classes, H/W sides of an image in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vit_adapter.data.panoptic.segments import Segment, segment_indexes

_MATCH_IOU = 0.5
_IGNORED_SHARE = 0.5


class Quality(NamedTuple):
    """PQ, SQ and RQ of each class (..., K), as fractions with NaN for classes that do not occur."""

    pq: np.ndarray
    sq: np.ndarray
    rq: np.ndarray


def count_segments(
    predicted_ids: np.ndarray,
    predicted: Sequence[Segment],
    true_ids: np.ndarray,
    labelled: Sequence[Segment],
    num_classes: int,
) -> np.ndarray:
    """Count the matches and errors in one image.

    Args:
        predicted_ids: (H, W) integers, 0 for no segment.
        predicted: ``id`` and ``category_id`` of each predicted segment.
        true_ids: (H, W) integers; ids that ``labelled`` does not list are void.
        labelled: ``id``, ``category_id`` and, if it is not 0, ``iscrowd`` of each labelled segment.
        num_classes: K; category ids are 0 to K - 1.

    Returns:
        (K, 4) float64: sum of the IoUs of the matches, number of matches, of predicted segments
        without a match, and of labelled segments without one.
    """
    true_classes = np.array([segment["category_id"] for segment in labelled], dtype=np.int64)
    classes = np.array([segment["category_id"] for segment in predicted], dtype=np.int64)
    is_crowd = np.array([bool(segment.get("iscrowd")) for segment in labelled], dtype=bool)
    # row: labelled segment, the last one is void; column: predicted segment, the last one is none
    pixels = _intersections(true_ids, labelled, predicted_ids, predicted)
    shared, on_void = pixels[:-1, :-1], pixels[-1, :-1]
    areas = pixels[:, :-1].sum(axis=0)
    union = pixels[:-1].sum(axis=1)[:, None] + (areas - on_void)[None] - shared
    iou = shared / np.maximum(union, 1)
    same_class = true_classes[:, None] == classes[None]
    matched = (iou > _MATCH_IOU) & same_class & ~is_crowd[:, None]
    ignored = on_void + (shared * (same_class & is_crowd[:, None])).sum(axis=0)
    is_error = ~matched.any(axis=0) & (ignored <= _IGNORED_SHARE * areas)
    is_missed = ~matched.any(axis=1) & ~is_crowd

    counts = np.zeros((num_classes, 4))
    rows, columns = matched.nonzero()
    np.add.at(counts[:, 0], true_classes[rows], iou[rows, columns])
    np.add.at(counts[:, 1], true_classes[rows], 1)
    np.add.at(counts[:, 2], classes[is_error], 1)
    np.add.at(counts[:, 3], true_classes[is_missed], 1)
    return counts


def compute_quality(counts: np.ndarray) -> Quality:
    """Compute the quality of each class from counts (..., K, 4) that are added up over images."""
    iou, matches, wrong, missed = np.moveaxis(counts, -1, 0)
    total = matches + (wrong + missed) / 2
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: the class does not occur
        return Quality(
            pq=iou / total,
            sq=np.where(total > 0, iou / np.maximum(matches, 1), np.nan),
            rq=matches / total,
        )


def _intersections(
    true_ids: np.ndarray,
    labelled: Sequence[Segment],
    predicted_ids: np.ndarray,
    predicted: Sequence[Segment],
) -> np.ndarray:
    """Count the pixels of each pair of segments; the last row and column are for no segment."""
    shape = len(labelled) + 1, len(predicted) + 1
    pairs = segment_indexes(true_ids, labelled) * shape[1] + segment_indexes(
        predicted_ids, predicted
    )
    return np.bincount(pairs.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
