"""Problems in the entries of a COCO panoptic file, collected and reported together.

Entries are checked after ``values`` has given them COCO's types.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from vit_adapter.data.instances.coco_problems import Identifier, Problems, check_categories

_Entry = dict[str, Any]
_MAX_ID = 256**3 - 1

NO_SEGMENT = (
    "image without any segment, from which a model would learn that it shows nothing; label it, or "
    "remove it from 'images' and 'annotations'"
)


def check_panoptic_categories(
    categories: list[_Entry], problems: Problems
) -> dict[Identifier, bool]:
    """Check ids, names and kinds; return whether each valid id is a thing."""
    valid = check_categories(categories, problems)
    is_thing: dict[Identifier, bool] = {}
    for category in categories:
        identifier, kind = category.get("id"), category.get("isthing")
        if kind not in (0, 1):
            problems.add(
                "category whose 'isthing' is neither 1, for objects, nor 0, for stuff",
                f"{identifier!r} ({category.get('name')!r}, isthing={kind!r})",
            )
        if isinstance(identifier, int) and identifier in valid:
            is_thing[identifier] = kind != 0  # if unclear, several in an image are no problem
    return is_thing


def check_panoptic_annotations(
    annotations: list[_Entry],
    images: Mapping[Identifier, _Entry],
    is_thing: Mapping[Identifier, bool],
    problems: Problems,
) -> list[_Entry]:
    """Check the references, and the list of segments of each image.

    Args:
        annotations: of the file.
        images: entries by id.
        is_thing: for each category id, whether it is a thing.
        problems: collects the problems that are found.

    Returns:
        The annotations with a file name, a known image and a list of segments.
    """
    usable: list[_Entry] = []
    seen: set[Identifier] = set()
    for index, annotation in enumerate(annotations):
        image_id = annotation.get("image_id")
        if not isinstance(image_id, int | str) or image_id not in images:
            problems.add(
                "annotation of an image that 'images' does not list",
                f"annotations[{index}] (image_id={image_id!r})",
            )
            continue
        label = f"image {image_id!r} ({images[image_id]['file_name']})"
        if image_id in seen:
            problems.add("image with more than one annotation", label)
        seen.add(image_id)
        segments = annotation.get("segments_info")
        if not isinstance(annotation.get("file_name"), str) or not annotation["file_name"]:
            problems.add("annotation without the 'file_name' of its segment map", label)
        elif not isinstance(segments, list) or not all(isinstance(s, dict) for s in segments):
            problems.add("annotation whose 'segments_info' is not a list of objects", label)
        else:
            label = f"{annotation['file_name']} of {label}"
            _check_list(segments, label, is_thing, problems)
            usable.append(annotation)
    for image_id, image in images.items():
        if image_id not in seen:
            problems.add(NO_SEGMENT, f"image {image_id!r} ({image['file_name']})")
    return usable


def _check_list(
    segments: list[_Entry], label: str, is_thing: Mapping[Identifier, bool], problems: Problems
) -> None:
    if not segments:
        problems.add(NO_SEGMENT, label)
    ids: set[int] = set()
    stuff: set[Identifier] = set()
    for segment in segments:
        identifier, category = segment.get("id"), segment.get("category_id")
        example = f"segment {reprlib.repr(identifier)} in {label}"
        if type(identifier) is not int or not 0 < identifier <= _MAX_ID:
            problems.add(f"segment whose 'id' is not an integer from 1 to {_MAX_ID}", example)
        elif identifier in ids:
            problems.add("segment id that occurs twice in one image; give each its own", example)
        else:
            ids.add(identifier)
        if not isinstance(category, int | str) or category not in is_thing:
            problems.add(
                f"segment of a category that 'categories' does not list ({sorted(is_thing)})",
                f"{example} (category_id={category!r})",
            )
        elif not is_thing[category]:
            if category in stuff:
                problems.add(
                    "second segment of the same stuff in one image; give all its pixels one id",
                    f"{example} (category_id={category})",
                )
            stuff.add(category)
        if segment.get("iscrowd", 0) not in (0, 1):
            problems.add(
                "segment whose 'iscrowd' is neither 0 nor 1",
                f"{example} (iscrowd={reprlib.repr(segment['iscrowd'])})",
            )
