"""Segment maps and the lists that describe them.

Shapes: H/W sides of a segment map in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Segment = Mapping[str, Any]


def segment_indexes(ids: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    """Replace segment ids by positions in a list.

    Args:
        ids: (H, W) integers.
        segments: each with its ``id``.

    Returns:
        (H, W) int64: the index of the segment with this id, or the number of segments if none has.
    """
    if not segments:
        return np.zeros(ids.shape, dtype=np.int64)
    listed = np.array([segment["id"] for segment in segments])
    order = listed.argsort(kind="stable")
    position = np.searchsorted(listed, ids, sorter=order).clip(max=len(listed) - 1)
    indexes = order[position]
    return np.where(listed[indexes] == ids, indexes, len(listed))


def only_on_one_side(
    ids: np.ndarray, indexes: np.ndarray, segments: Sequence[Segment]
) -> tuple[list[int], list[int]]:
    """Return the ids that only the map has, and those that only the list has; 0 stands for none.

    Args:
        ids: (H, W) integers.
        indexes: (H, W), the result of :func:`segment_indexes` for them.
        segments: each with its ``id``.
    """
    unlisted = np.unique(ids[(indexes == len(segments)) & (ids != 0)]).tolist()
    areas = np.bincount(indexes.ravel(), minlength=len(segments) + 1)
    return unlisted, [
        segment["id"] for segment, area in zip(segments, areas[:-1], strict=True) if not area
    ]
