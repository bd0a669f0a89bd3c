"""Checks that the segment maps of a panoptic data set exist and fit their lists of segments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vit_adapter.data.image_io import read_segment_ids, read_sizes
from vit_adapter.data.instances.coco_problems import Identifier, Problems
from vit_adapter.data.panoptic.segments import only_on_one_side, segment_indexes

_Entry = dict[str, Any]

_NUM_OPENED = 5000  # files whose headers are read, which takes about a second
_NUM_READ = 500  # files whose pixels are read, which takes some seconds
_MAX_IDS = 5  # of one map, in a message


def check_map_files(
    annotations: Sequence[_Entry],
    images: Mapping[Identifier, _Entry],
    map_root: Path,
    problems: Problems,
    *,
    check_all: bool = False,
) -> None:
    """Check that all maps exist, and the sizes and pixels of many, spread evenly.

    Args:
        annotations: each with ``file_name``, ``image_id`` and ``segments_info``.
        images: entries by id.
        map_root: folder to which the names of the maps are relative.
        problems: collects the problems that are found.
        check_all: read every map, with a progress bar.
    """
    found = []
    for annotation in annotations:
        if os.path.isfile(map_root / annotation["file_name"]):
            found.append(annotation)
        else:
            problems.add(
                f"segment map missing in {map_root}; correct that folder, or the 'file_name' of "
                "the annotation",
                annotation["file_name"],
            )
    readable = []
    for annotation in found if check_all else spread(found, _NUM_OPENED):
        if _has_size(annotation, images[annotation["image_id"]], map_root, problems):
            readable.append(annotation)
    chosen = readable if check_all else spread(readable, _NUM_READ)
    for annotation in tqdm(chosen, desc="Checking maps", unit="image", disable=not check_all):
        _check_pixels(annotation, map_root, problems)


def spread(entries: Sequence[Any], most: int) -> Sequence[Any]:
    """Return at most this many entries, spread evenly."""
    if len(entries) <= most:
        return entries
    return [entries[i * len(entries) // most] for i in range(most)]


def _has_size(annotation: _Entry, image: _Entry, map_root: Path, problems: Problems) -> bool:
    """Whether a map has the size of its image's entry; adds a problem if not."""
    name, expected = annotation["file_name"], (image.get("height"), image.get("width"))
    try:
        size = read_sizes(map_root / name)[1]  # upright, as read_segment_ids returns it
    except ValueError as error:
        problems.add("segment map that cannot be used", str(error))
        return False
    if size != expected:
        problems.add(
            "segment map whose size is not the 'height' and 'width' of its image",
            f"{name} ({size[0]} and {size[1]}, not {expected[0]} and {expected[1]} of "
            f"{image['file_name']})",
        )
    return size == expected


def _check_pixels(annotation: _Entry, map_root: Path, problems: Problems) -> None:
    name, segments = annotation["file_name"], annotation["segments_info"]
    try:
        ids = read_segment_ids(map_root / name)
    except ValueError as error:
        problems.add("segment map that cannot be used", str(error))
        return
    listed = [segment for segment in segments if type(segment.get("id")) is int]
    unlisted, empty = only_on_one_side(ids, segment_indexes(ids, listed), listed)
    if unlisted:
        problems.add(
            "segment map with an id that its 'segments_info' does not list; add it there, or set "
            "its pixels to 0",
            f"{name} ({_few(unlisted)})",
        )
    if empty:
        problems.add(
            "segment without a pixel in its segment map; remove it from 'segments_info', or "
            "correct the map",
            f"{name} ({_few(empty)})",
        )


def _few(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:_MAX_IDS])) + (", ..." if len(ids) > _MAX_IDS else "")
