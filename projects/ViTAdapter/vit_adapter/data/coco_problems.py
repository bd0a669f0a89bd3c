"""What can be wrong in the entries of a COCO instance file: found one by one, told together."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from vit_adapter.data.image_io import MIN_SIDE

Identifier = int | str
_Entry = dict[str, Any]

_EXAMPLES = 5


class Problems:
    """Collects problems by kind; true if there is one."""

    def __init__(self) -> None:
        self._examples: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, kind: str, example: str) -> None:
        """Note one case of a kind; ``kind`` ends in what to do about it."""
        self._counts[kind] += 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(example)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def describe(self) -> str:
        """Return one line for each kind: the number of cases, what to do, the first few cases."""
        lines = []
        for kind, count in self._counts.items():
            more = ", ..." if count > _EXAMPLES else ""
            lines.append(f"- {count} x {kind}: {', '.join(self._examples[kind])}{more}")
        return "\n".join(lines)


def check_categories(categories: list[_Entry], problems: Problems) -> set[Identifier]:
    """Check ids and names; return the valid ids."""
    ids = set()
    for index, category in enumerate(categories):
        if not _is_integer(category.get("id")) or not isinstance(category.get("name"), str):
            problems.add(
                "category without an integer 'id' and a 'name'", f"categories[{index}] = {category}"
            )
        elif category["id"] in ids:
            problems.add("category id that occurs twice", str(category["id"]))
        else:
            ids.add(category["id"])
    return ids


def check_images(
    images: list[_Entry], image_root: Path, problems: Problems
) -> dict[Identifier, _Entry]:
    """Check ids, sizes and that the files exist; return the usable entries by id."""
    by_id: dict[Identifier, _Entry] = {}
    for index, image in enumerate(images):
        identifier, name = image.get("id"), image.get("file_name")
        if not _is_identifier(identifier) or not isinstance(name, str):
            problems.add("image without 'id' and 'file_name'", f"images[{index}] = {image}")
            continue
        if identifier in by_id:
            problems.add("image id that occurs twice", str(identifier))
        by_id[identifier] = image
        sides = image.get("height"), image.get("width")
        if not all(_is_integer(side) and side >= MIN_SIDE for side in sides):
            problems.add(
                f"image whose 'height' and 'width' are not integers of at least {MIN_SIDE} pixels",
                f"{name} (height={sides[0]}, width={sides[1]})",
            )
        if not (image_root / name).is_file():
            problems.add(f"image file missing in {image_root}, correct the image folder", name)
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
        are none. Crowds do not count: their masks are run-length codes, which training leaves out.
    """
    seen: set[Identifier] = set()
    without_mask: list[str] = []
    formats: set[str] = set()
    for index, annotation in enumerate(annotations):
        label = f"annotation {annotation.get('id', f'at index {index}')}"
        _check_references(annotation, label, images, category_ids, seen, problems)
        image = images.get(_hashable(annotation.get("image_id")), {})
        size = (image.get("height"), image.get("width"))
        size = size if all(map(_is_integer, size)) else None
        problem = box_problem(annotation.get("bbox"), size)
        if problem:
            problems.add(f"{problem}; correct or remove it", f"{label}{_of_image(image)}")
        segmentation = annotation.get("segmentation")
        if not segmentation:
            without_mask.append(f"{label}{_of_image(image)}")
            continue
        if not annotation.get("iscrowd"):
            formats.add("bitmask" if isinstance(segmentation, dict) else "polygon")
        problem = mask_problem(segmentation, size)
        if problem:
            problems.add(f"{problem}; correct or remove it", f"{label}{_of_image(image)}")
    if formats:
        # None at all is a data set of boxes; some is a mistake.
        for label in without_mask:
            problems.add("annotation without 'segmentation' where others have one", label)
    return "bitmask" if "bitmask" in formats else "polygon" if formats else None


def box_problem(box: Any, size: tuple[int, int] | None) -> str | None:
    """Return what is wrong with a COCO box (x, y, width, height) in pixels, or None.

    A box without area is nothing wrong: COCO train2017 has two, and training leaves them out.

    Args:
        box: the value of ``bbox``.
        size: (height, width) of the image, None if unknown.
    """
    if box is None:
        return "'bbox' is missing"
    if not _are_numbers(box) or len(box) != 4:
        return "'bbox' is not four finite numbers (x, y, width, height)"
    x, y, width, height = box
    if width < 0 or height < 0:
        return "'bbox' has a negative width or height (x, y, width, height)"
    if size and (x > size[1] or y > size[0] or x + width < 0 or y + height < 0):
        return "'bbox' lies outside the image"
    return None


def mask_problem(segmentation: Any, size: tuple[int, int] | None) -> str | None:
    """Return what is wrong with a COCO mask that is not empty, or None.

    Args:
        segmentation: a list of polygons [x1, y1, x2, y2 ...], or a run-length code.
        size: (height, width) of the image, None if unknown.
    """
    if isinstance(segmentation, dict):
        return run_length_problem(segmentation, size)
    if not isinstance(segmentation, list) or not all(map(_are_numbers, segmentation)):
        return "'segmentation' is neither polygons of finite numbers nor a run-length code"
    if any(len(polygon) % 2 for polygon in segmentation):
        return "'segmentation' has a polygon with an odd number of coordinates"
    if any(len(polygon) < 6 for polygon in segmentation):
        return "'segmentation' has a polygon of fewer than 3 points"
    return None


def run_length_problem(code: _Entry, size: tuple[int, int] | None) -> str | None:
    """Return what is wrong with a run-length code, or None; arguments as in ``mask_problem``.

    pycocotools would decode a truncated code to random pixels.
    """
    if not _are_numbers(code.get("size")) or len(code["size"]) != 2 or "counts" not in code:
        return "run-length code without 'size' (height, width) and 'counts'"
    if size and tuple(code["size"]) != size:
        return "run-length code whose 'size' is not the (height, width) of the image"
    counts = code["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    if isinstance(counts, str):
        counts = _decode_counts(counts)
    if not isinstance(counts, list) or not all(_is_integer(n) and n >= 0 for n in counts):
        return "run-length code whose 'counts' are corrupt or truncated"
    if sum(counts) != math.prod(code["size"]):
        return "run-length code whose 'counts' do not add up to its 'size'"
    return None if any(counts[1::2]) else "run-length code without any pixel"


def _decode_counts(code: str) -> list[int] | None:
    """Return the run lengths of COCO's compressed code, or None if it is malformed.

    A number is a row of characters of 6 bits each, offset by 48: the upper bit says that another
    character follows, the lower five are digits, the least significant first. From the fourth
    number on, the difference to the last but one is stored, in two's complement.
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
        problems.add("annotation without an 'id'", label)
    elif identifier in seen:
        problems.add("annotation id that occurs twice, ids must be unique in the file", label)
    else:
        seen.add(identifier)
    image_id = _hashable(annotation.get("image_id"))
    if image_id not in images:
        problems.add(
            "annotation of an image that 'images' does not list", f"{label} (image_id={image_id})"
        )
    category_id = _hashable(annotation.get("category_id"))
    if category_id not in category_ids:
        problems.add(
            f"annotation of a category that 'categories' does not list ({sorted(category_ids)})",
            f"{label} (category_id={category_id})",
        )
    if annotation.get("ignore"):
        problems.add("annotation with 'ignore', which Detectron2 refuses; use 'iscrowd'", label)


def _of_image(image: _Entry) -> str:
    return f" of {image['file_name']}" if "file_name" in image else ""


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_identifier(value: Any) -> bool:
    return _is_integer(value) or isinstance(value, str)


def _hashable(value: Any) -> Identifier | None:
    """Return an id as it is, None for what cannot be one."""
    return value if _is_identifier(value) else None


def _are_numbers(values: Any) -> bool:
    """Return whether this is a list of finite numbers."""
    return isinstance(values, list) and all(
        isinstance(value, int | float) and math.isfinite(value) for value in values
    )
