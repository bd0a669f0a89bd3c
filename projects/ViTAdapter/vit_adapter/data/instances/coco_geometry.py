"""Boxes and masks of COCO's instance format: what is wrong with one, and how large it is."""

from __future__ import annotations

import math
from typing import Any

from pycocotools import mask as mask_util

_Size = tuple[int, int]  # (height, width)


def box_problem(box: Any, size: _Size | None) -> str | None:
    """Return what is wrong with a COCO box (x, y, width, height) in pixels, or None.

    A box without area is allowed: COCO train2017 has two, and training leaves them out.

    Args:
        box: the value of ``bbox``.
        size: (height, width) of the image, None if unknown.
    """
    if box is None:
        return "'bbox' is missing"
    if not are_numbers(box) or len(box) != 4:
        return "'bbox' is not four finite numbers (x, y, width, height)"
    x, y, width, height = box
    if width < 0 or height < 0:
        return "'bbox' has a negative width or height (x, y, width, height)"
    if size and (x > size[1] or y > size[0] or x + width < 0 or y + height < 0):
        return "'bbox' lies outside the image"
    return None


def are_numbers(values: Any) -> bool:
    """Return whether this is a list of finite numbers."""
    return (
        isinstance(values, list)
        and set(map(type, values)) <= {int, float}
        and all(map(math.isfinite, values))
    )


def are_fractions(values: list[float]) -> bool:
    """Return whether all numbers lie in 0..1, up to rounding, as relative coordinates do."""
    return all(-0.01 <= value <= 1.01 for value in values)


def mask_problem(segmentation: Any, size: _Size | None, box: Any) -> str | None:
    """Return what is wrong with a COCO mask that is not empty, or None.

    Args:
        segmentation: a list of polygons [x1, y1, x2, y2 ...], or a run-length code.
        size: (height, width) of the image, None if unknown.
        box: the value of ``bbox``, which may be wrong.
    """
    if isinstance(segmentation, dict):
        return run_length_problem(segmentation, size)
    if not isinstance(segmentation, list) or not all(map(are_numbers, segmentation)):
        return "'segmentation' is neither polygons of finite numbers nor a run-length code"
    if any(len(polygon) % 2 for polygon in segmentation):
        return "'segmentation' has a polygon with an odd number of coordinates"
    if any(len(polygon) < 6 for polygon in segmentation):
        return "'segmentation' has a polygon of fewer than 3 points"
    if all(map(are_fractions, segmentation)) and are_numbers(box) and not are_fractions(box):
        return "'segmentation' has fractions (0 to 1) of the image's sides, 'bbox' has pixels"
    return None


def run_length_problem(code: dict[str, Any], size: _Size | None) -> str | None:
    """Return what is wrong with a run-length code, or None; arguments as of ``mask_problem``.

    pycocotools would decode a truncated code to random pixels.
    """
    if not are_numbers(code.get("size")) or len(code["size"]) != 2 or "counts" not in code:
        return "run-length code without 'size' (height, width) and 'counts'"
    if size and tuple(code["size"]) != size:
        return "run-length code whose 'size' is not the (height, width) of the image"
    counts = code["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    if isinstance(counts, str):
        counts = _decode_counts(counts)
    if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
        return "run-length code whose 'counts' are corrupt or truncated"
    if sum(counts) != math.prod(code["size"]):
        return "run-length code whose 'counts' do not add up to its 'size'"
    return None if any(counts[1::2]) else "run-length code without any pixel"


def mask_area(annotation: dict[str, Any], size: _Size) -> float:
    """Return COCO's ``area``: the number of pixels of the mask, or the area of the box without one.

    Args:
        annotation: with ``bbox`` and optionally ``segmentation``.
        size: (height, width) of the image.
    """
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return float(annotation["bbox"][2] * annotation["bbox"][3])
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, *size)
    return float(mask_util.area(segmentation))


def _decode_counts(code: str) -> list[int] | None:
    """Return the run lengths of COCO's compressed code, or None if it is malformed.

    A number is a sequence of characters of 6 bits each, offset by 48. The upper bit says that
    another character follows; the lower five are digits, least significant first. From the fourth
    number on, the difference to the number before the previous one is stored, in two's complement.
    """
    counts: list[int] = []
    value = shift = 0
    for character in code:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            return None
        value |= (digit & 0x1F) << shift
        shift += 5
        if digit & 0x20:
            continue
        if digit & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return None if shift else counts
