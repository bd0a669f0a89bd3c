"""Warnings about COCO data that are valid, but rarely meant: by kind, with their number."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_Entry = dict[str, Any]

_MANY_CROWDS = 0.1  # share of the annotations; in COCO it is 0.01

_logger = logging.getLogger(__name__)


def warn_of_oddities(
    annotations: Sequence[_Entry], images: Mapping[int | str, _Entry], json_file: Path
) -> None:
    """Log a warning for each kind of oddity.

    Args:
        annotations: without problems (see ``coco_problems``).
        images: entries by id.
        json_file: where they come from.
    """
    total = len(annotations)
    boxes = [annotation["bbox"] for annotation in annotations]
    if without_area := sum(0 in box[2:] for box in boxes):
        _logger.warning(
            "%d of %d boxes in %s have no area; training leaves them out.",
            without_area, total, json_file,
        )
    if flat := sum(_is_flat(annotation.get("segmentation")) for annotation in annotations):
        _logger.warning(
            "%d of %d masks in %s have no area: the points of their polygons lie on a line.",
            flat, total, json_file,
        )
    if tiny := sum(0 < box[2] < 1 and 0 < box[3] < 1 for box in boxes):
        _logger.warning(
            "%d of %d boxes in %s are smaller than a pixel. COCO boxes are in pixels; check that "
            "these are not fractions of the image's sides.",
            tiny, total, json_file,
        )
    if overhanging := sum(_overhangs(a["bbox"], images[a["image_id"]]) for a in annotations):
        _logger.warning(
            "%d of %d boxes in %s reach beyond their image and will be clipped. COCO boxes are "
            "(x, y, width, height); check that these are not (x1, y1, x2, y2).",
            overhanging, total, json_file,
        )
    crowds = [annotation for annotation in annotations if annotation.get("iscrowd")]
    unlike_coco = not all(isinstance(crowd.get("segmentation"), dict) for crowd in crowds)
    if unlike_coco or len(crowds) > _MANY_CROWDS * total:
        _logger.warning(
            "%d of %d annotations in %s are crowds (iscrowd=1): training leaves them out, and "
            "evaluation does not count them. COCO marks only groups of objects that are not told "
            "apart, with run-length codes as masks; for single objects iscrowd must be 0.",
            len(crowds), total, json_file,
        )


def _is_flat(segmentation: Any) -> bool:
    """Return whether all polygons of a mask have no extent in x or in y."""
    if not segmentation or isinstance(segmentation, dict):
        return False
    axes = ((polygon[0::2], polygon[1::2]) for polygon in segmentation)
    return all(min(x) == max(x) or min(y) == max(y) for x, y in axes)


def _overhangs(box: Sequence[float], image: _Entry) -> bool:
    """Return whether a box leaves its image by more than a pixel, which may be rounding."""
    x, y, width, height = box
    return x < -1 or y < -1 or x + width > image["width"] + 1 or y + height > image["height"] + 1
