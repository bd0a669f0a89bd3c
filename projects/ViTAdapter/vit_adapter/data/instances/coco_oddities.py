"""Warnings about COCO data that are valid but probably not intended, one for each kind."""

from __future__ import annotations

import logging
import os
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
        annotations: annotations without problems (see ``coco_problems``).
        images: image entries by id.
        json_file: the file that they come from.
    """
    total = len(annotations)
    files = {os.path.normpath(image["file_name"]) for image in images.values()}
    if repeated := len(images) - len(files):
        _logger.warning(
            "%d of %d images in %s name the same file as another image. List each file once, with "
            "all of its annotations: an object of one entry is background in the other.",
            repeated,
            len(images),
            json_file,
        )
    boxes = [annotation["bbox"] for annotation in annotations]
    if without_area := sum(0 in box[2:] for box in boxes):
        _logger.warning(
            "%d of %d boxes in %s have no area. Training leaves them out.",
            without_area,
            total,
            json_file,
        )
    _warn_of_polygons(annotations, json_file)
    if tiny := sum(0 < box[2] < 1 and 0 < box[3] < 1 for box in boxes):
        _logger.warning(
            "%d of %d boxes in %s are smaller than a pixel. COCO boxes are in pixels; check that "
            "these are not fractions of the image's sides.",
            tiny,
            total,
            json_file,
        )
    if overhanging := sum(_overhangs(a["bbox"], images[a["image_id"]]) for a in annotations):
        _logger.warning(
            "%d of %d boxes in %s reach beyond their image and will be clipped. COCO boxes are "
            "(x, y, width, height); check that these are not (x1, y1, x2, y2).",
            overhanging,
            total,
            json_file,
        )
    crowds = [annotation for annotation in annotations if annotation.get("iscrowd")]
    unlike_coco = not all(isinstance(crowd.get("segmentation"), dict) for crowd in crowds)
    if unlike_coco or len(crowds) > _MANY_CROWDS * total:
        _logger.warning(
            "%d of %d annotations in %s are crowds (iscrowd=1). Training leaves them out, and "
            "evaluation does not count them. COCO uses crowds only for groups of objects without "
            "separate masks, with run-length codes; for single objects iscrowd must be 0.",
            len(crowds),
            total,
            json_file,
        )


def _warn_of_polygons(annotations: Sequence[_Entry], json_file: Path) -> None:
    flat = outside = 0
    for annotation in annotations:
        segmentation = annotation.get("segmentation")
        if not segmentation or isinstance(segmentation, dict):
            continue
        x, y, width, height = annotation["bbox"]
        axes = [(polygon[0::2], polygon[1::2]) for polygon in segmentation]
        extents = [(min(xs), min(ys), max(xs), max(ys)) for xs, ys in axes]
        flat += all(x1 == x2 or y1 == y2 for x1, y1, x2, y2 in extents)
        outside += all(  # by more than a pixel, which may be rounding
            x1 > x + width + 1 or y1 > y + height + 1 or x2 < x - 1 or y2 < y - 1
            for x1, y1, x2, y2 in extents
        )
    if flat:
        _logger.warning(
            "%d of %d masks in %s have no area: the points of their polygons lie on a line.",
            flat,
            len(annotations),
            json_file,
        )
    if outside:
        _logger.warning(
            "%d of %d masks in %s lie outside their boxes. Polygons are x1, y1, x2, y2 ... in "
            "pixels, COCO boxes (x, y, width, height).",
            outside,
            len(annotations),
            json_file,
        )


def _overhangs(box: Sequence[float], image: _Entry) -> bool:
    """Return whether a box leaves its image by more than a pixel, which may be rounding."""
    x, y, width, height = box
    return x < -1 or y < -1 or x + width > image["width"] + 1 or y + height > image["height"] + 1
