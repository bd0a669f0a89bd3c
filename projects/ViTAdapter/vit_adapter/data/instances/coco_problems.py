"""Problems in the entries of a COCO instance file, collected and reported together.

Entries are checked after ``coco_values`` has given them COCO's types. Values without a clear
meaning are left as they are, so that messages show what the file holds.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from typing import Any

from vit_adapter.data.image_io import MIN_SIDE
from vit_adapter.data.instances.coco_geometry import (
    are_fractions,
    are_numbers,
    box_problem,
    mask_problem,
)

Identifier = int | str
_Entry = dict[str, Any]

_EXAMPLES = 5


class Problems:
    """Collects problems by kind; it is true if there are any."""

    def __init__(self) -> None:
        self._examples: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, kind: str, example: str) -> None:
        """Add one case of a kind; ``kind`` ends with what to do about it."""
        self._counts[kind] += 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(example)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def describe_kinds(self) -> list[str]:
        """Return a text per kind: the number of cases, what to do, and the first few cases."""
        texts = []
        for kind, count in self._counts.items():
            more = ", ..." if count > _EXAMPLES else ""
            texts.append(f"{count} x {kind}: {', '.join(self._examples[kind])}{more}")
        return texts

    def describe(self) -> str:
        """Return the texts of all kinds as the lines of a list."""
        return "\n".join(f"- {text}" for text in self.describe_kinds())


def check_categories(categories: list[_Entry], problems: Problems) -> set[Identifier]:
    """Check ids and names; return the valid ids."""
    ids: set[Identifier] = set()
    names: set[str] = set()
    for index, category in enumerate(categories):
        identifier, name = category.get("id"), category.get("name")
        if not _is_integer(identifier) or not isinstance(name, str) or not name:
            problems.add(
                "category without an integer 'id' and a 'name'", f"categories[{index}] = {category}"
            )
            continue
        if identifier in ids:
            problems.add("category id that occurs twice", str(identifier))
        if name in names:
            problems.add("category name that occurs twice, names must be unique", repr(name))
        ids.add(identifier)
        names.add(name)
    return ids


def check_images(images: list[_Entry], problems: Problems) -> dict[Identifier, _Entry]:
    """Check ids and sizes; return the usable entries by id."""
    by_id: dict[Identifier, _Entry] = {}
    for index, image in enumerate(images):
        identifier, name = image.get("id"), image.get("file_name")
        if not _is_identifier(identifier) or not isinstance(name, str) or not name:
            problems.add("image without 'id' and 'file_name'", f"images[{index}] = {image}")
            continue
        if identifier in by_id:
            problems.add("image id that occurs twice", str(identifier))
        by_id[identifier] = image
        sides = image.get("height"), image.get("width")
        if not all(map(_is_side, sides)):
            problems.add(
                f"image whose 'height' and 'width' are not integers of at least {MIN_SIDE} pixels",
                f"{name} (height={sides[0]!r}, width={sides[1]!r})",
            )
    texts = [identifier for identifier in by_id if isinstance(identifier, str)]
    if 0 < len(texts) < len(by_id):
        other = next(identifier for identifier in by_id if not isinstance(identifier, str))
        problems.add(
            "image id that is a string where others are numbers, use one kind",
            f"{texts[0]!r} of {by_id[texts[0]]['file_name']} and {other!r} of "
            f"{by_id[other]['file_name']}",
        )
    return by_id


def check_annotations(
    annotations: list[_Entry],
    images: dict[Identifier, _Entry],
    category_ids: set[Identifier],
    problems: Problems,
) -> str | None:
    """Check ids, references, boxes and masks.

    Returns:
        "polygon" if all masks are polygons, "bitmask" if some are run-length codes, None if there
        are none. Crowds do not count, because training leaves out their run-length codes.
    """
    seen: set[Identifier] = set()
    without_mask: list[str] = []
    formats: set[str] = set()
    fractions: list[str] = []
    for index, annotation in enumerate(annotations):
        identifier = annotation.get("id")
        label = f"annotation {identifier if _is_identifier(identifier) else f'at index {index}'}"
        _check_references(annotation, label, images, category_ids, seen, problems)
        image = images.get(_hashable(annotation.get("image_id")), {})
        label += f" of {image['file_name']}" if image else ""
        size = (image.get("height"), image.get("width"))
        size = size if all(map(_is_side, size)) else None
        box = annotation.get("bbox")
        if problem := box_problem(box, size):
            problems.add(f"{problem}; correct or remove it", f"{label} (bbox={reprlib.repr(box)})")
        elif are_fractions(box):
            fractions.append(f"{label} (bbox={box})")
        if not are_numbers(annotation.get("keypoints", [])):
            problems.add(
                "'keypoints' is not a list of finite numbers; correct or remove it",
                f"{label} (keypoints={reprlib.repr(annotation['keypoints'])})",
            )
        segmentation = annotation.get("segmentation")
        if not segmentation:
            without_mask.append(label)
            continue
        if not annotation.get("iscrowd"):
            formats.add("bitmask" if isinstance(segmentation, dict) else "polygon")
        if problem := mask_problem(segmentation, size, box):
            example = f"{label} (segmentation={reprlib.repr(segmentation)})"
            problems.add(f"{problem}; correct or remove it", example)
    if formats:
        # A data set without any masks has boxes only; if just some are missing, it is a mistake.
        for label in without_mask:
            problems.add("annotation without 'segmentation' where others have one", label)
    if len(fractions) == len(annotations):  # a single one may be a speck in a corner
        for label in fractions:
            problems.add(
                "'bbox' with numbers from 0 to 1 only, like all others in this file: boxes are in "
                "pixels, not fractions of the image's sides; multiply by its width and height",
                label,
            )
    return "bitmask" if "bitmask" in formats else "polygon" if formats else None


def _check_references(
    annotation: _Entry,
    label: str,
    images: dict[Identifier, _Entry],
    category_ids: set[Identifier],
    seen: set[Identifier],
    problems: Problems,
) -> None:
    identifier = annotation.get("id")
    if not _is_identifier(identifier):
        problems.add(
            "annotation without an 'id' that is an integer or a string",
            f"{label} (id={reprlib.repr(identifier)})",
        )
    elif identifier in seen:
        problems.add("annotation id that occurs twice, ids must be unique in the file", label)
    else:
        seen.add(identifier)
    image_id = annotation.get("image_id")
    if _hashable(image_id) not in images:
        shown = ", ".join(map(repr, list(images)[:3])) + (", ..." if len(images) > 3 else "")
        problems.add(
            f"annotation of an image that 'images' does not list ({shown})",
            f"{label} (image_id={reprlib.repr(image_id)})",
        )
    category_id = annotation.get("category_id")
    if _hashable(category_id) not in category_ids:
        problems.add(
            f"annotation of a category that 'categories' does not list ({sorted(category_ids)})",
            f"{label} (category_id={reprlib.repr(category_id)})",
        )
    crowd, ignore = annotation.get("iscrowd", 0), annotation.get("ignore", 0)
    if crowd not in (0, 1):
        problems.add(
            "annotation whose 'iscrowd' is neither 0 nor 1",
            f"{label} (iscrowd={reprlib.repr(crowd)})",
        )
    if ignore:
        problems.add(
            "annotation with 'ignore', which Detectron2 refuses; use 'iscrowd'",
            f"{label} (ignore={reprlib.repr(ignore)})",
        )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_side(value: Any) -> bool:
    return _is_integer(value) and value >= MIN_SIDE


def _is_identifier(value: Any) -> bool:
    return _is_integer(value) or isinstance(value, str)


def _hashable(value: Any) -> Identifier | None:
    """Return an id unchanged, or None for anything that cannot be one."""
    return value if _is_identifier(value) else None
