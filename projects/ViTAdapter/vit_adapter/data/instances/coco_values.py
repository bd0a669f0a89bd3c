"""Converts the values of a COCO instance file to COCO's types if their meaning is clear.

Some exporters write numbers as strings, ids as floats, and null for unknown values. Detectron2's
loader, pycocotools and this project's mapper would each read these differently: as a crowd, as a
missing number, as another id. Here each value is interpreted once for all of them. Unclear values
stay as they are; ``coco_problems`` refuses them.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vit_adapter.data.instances.coco_geometry import mask_area

_Entry = dict[str, Any]
_Meanings = dict[int | str, int | str]  # meaning of an id -> the id that 'images' and others have

_WHOLE_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.0+)?")
_FLAGS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
_MAX_AREA = 1e5**2  # pixels; COCO's evaluation leaves out larger objects


def whole_number(value: Any) -> int | None:
    """Return the integer that 3, 3.0, "3" or "3.0" stands for, None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        return int(value.partition(".")[0])
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return None


def number(value: Any) -> int | float | None:
    """Return a number unchanged, or the number in a string; None for anything else."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def flag(value: Any) -> int | None:
    """Return 0 or 1 for a number, a boolean or a string of one; 0 for None; None if unclear."""
    if value is None:
        return 0
    if isinstance(value, str | int | float):
        return _FLAGS.get(str(value).lower())
    return None


def normalise(content: _Entry, image_root: Path | None = None) -> Counter[str]:
    """Convert values of types that COCO does not use.

    Args:
        content: an annotation file as ``read_coco_json`` returns it; changed in place.
        image_root: folder of the images, to find files whose names have backslashes.

    Returns:
        Name of a field -> number of converted values. Absent fields stay absent.
    """
    changed: Counter[str] = Counter()
    for category in content["categories"]:
        _convert(category, "id", whole_number, changed)
        _convert(category, "name", _name, changed)
    _normalise_images(content["images"], image_root, changed)
    images, categories = _meanings(content["images"]), _meanings(content["categories"])
    for annotation in content.get("annotations", ()):
        _normalise_annotation(annotation, images, categories, changed)
    return changed


def complete_annotations(content: _Entry) -> None:
    """Add to normalised content what COCO's evaluation needs.

    ``iscrowd`` and ``area`` may be absent in the file. Ids become 1, 2, ..., because pycocotools
    stores the id of each detection's match as a number, where 0 means no match.

    Args:
        content: normalised content of an annotation file; changed in place.
    """
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in content["images"]}
    for index, annotation in enumerate(content.get("annotations", ()), start=1):
        annotation["id"] = index
        annotation.setdefault("iscrowd", 0)
        if "area" not in annotation and annotation["image_id"] in sizes:
            annotation["area"] = mask_area(annotation, sizes[annotation["image_id"]])


def _normalise_images(images: list[_Entry], image_root: Path | None, changed: Counter[str]) -> None:
    # If all ids are strings they are kept, because predictions must have the same ids.
    convert_ids = not all(isinstance(image.get("id"), str) for image in images)
    for image in images:
        if convert_ids:
            _convert(image, "id", whole_number, changed)
        for side in ("width", "height"):
            _convert(image, side, whole_number, changed)
        if image_root is not None:
            _convert(image, "file_name", lambda name: _with_slashes(name, image_root), changed)


def _normalise_annotation(
    annotation: _Entry, images: _Meanings, categories: _Meanings, changed: Counter[str]
) -> None:
    _convert(annotation, "id", whole_number, changed)
    _convert(annotation, "image_id", lambda value: images.get(_meaning(value)), changed)
    _convert(annotation, "category_id", lambda value: categories.get(_meaning(value)), changed)
    for key in ("iscrowd", "ignore"):
        _convert(annotation, key, flag, changed)
    for key in ("bbox", "keypoints"):
        _convert(annotation, key, _numbers, changed)
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        _convert(annotation, "segmentation", _polygons, changed)
    elif isinstance(segmentation, dict):
        for key in ("size", "counts"):
            _convert(segmentation, key, _whole_numbers, changed)
    if "keypoints" in annotation and annotation["keypoints"] is None:
        del annotation["keypoints"]
    if "area" in annotation:
        area = number(annotation["area"])
        if area is not None and 0 <= area <= _MAX_AREA:
            _convert(annotation, "area", number, changed)
        else:
            del annotation["area"]
            changed["area"] += 1


def _convert(
    entry: _Entry, key: str, meaning_of: Callable[[Any], Any], changed: Counter[str]
) -> None:
    """Replace a value by its meaning, unless it has none or already has COCO's type."""
    if key not in entry:
        return
    value = entry[key]
    meaning = meaning_of(value)
    if meaning is None:
        return
    # A list has a meaning only if it changes, since [1.0] equals [1].
    if isinstance(value, list) or type(meaning) is not type(value) or meaning != value:
        entry[key] = meaning
        changed[key] += 1


def _meanings(entries: Iterable[_Entry]) -> _Meanings:
    ids = (entry.get("id") for entry in entries)
    return {_meaning(value): value for value in ids if _meaning(value) is not None}


def _meaning(identifier: Any) -> int | str | None:
    """Return an id in the form used for comparing ids, None for anything that is not an id."""
    whole = whole_number(identifier)
    return identifier if whole is None and isinstance(identifier, str) else whole


def _name(value: Any) -> str | None:
    return str(value) if number(value) is not None else None


def _numbers(values: Any) -> list[Any] | None:
    """Return a list with strings of numbers converted to numbers, None if there are none."""
    if not isinstance(values, list) or str not in map(type, values):
        return None
    converted = [value if number(value) is None else number(value) for value in values]
    return None if converted == values else converted


def _whole_numbers(values: Any) -> list[Any] | None:
    if not isinstance(values, list) or set(map(type, values)) == {int}:
        return None
    converted = [whole_number(value) for value in values]
    return None if None in converted else converted


def _polygons(segmentation: list[Any]) -> list[Any] | None:
    converted = [_numbers(polygon) for polygon in segmentation]
    if not any(converted):
        return None
    return [new or old for new, old in zip(converted, segmentation, strict=True)]


def _with_slashes(name: Any, image_root: Path) -> str | None:
    """Return a Windows file name with slashes if only that file exists, else None."""
    if not isinstance(name, str) or "\\" not in name or os.path.isfile(image_root / name):
        return None
    other = name.replace("\\", "/")
    return other if os.path.isfile(image_root / other) else None
