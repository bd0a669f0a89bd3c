"""Checks that the image files of a COCO data set exist and have the stated sizes."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote

from vit_adapter.data.image_io import MIN_SIDE, read_sizes
from vit_adapter.data.instances.coco_problems import Problems
from vit_adapter.data.orientation import Orientations

_Entry = dict[str, Any]
_Listings = dict[Path, tuple[set[str], set[str]]]  # folder -> names of its files, and their stems

_MAX_SHOWN = 200  # characters of a name
_NUM_OPENED = 5000  # files whose headers are read, which takes about a second


def check_image_files(
    images: Collection[_Entry],
    image_root: Path,
    problems: Problems,
    *,
    image_format: str | int = "RGB",
) -> None:
    """Check that all files exist, and that the sizes of many agree with their entries.

    In a large data set only some files are opened, spread evenly; only their headers are read.

    Args:
        images: entries with a ``file_name``.
        image_root: folder to which the names are relative.
        problems: collects the problems that are found.
        image_format: as for ``read_image``.
    """
    listings: _Listings = {}
    found = []
    for image in images:
        name = image["file_name"]
        if os.path.isfile(image_root / name):
            found.append(image)
        else:
            advice = _advice(name, image_root, listings)
            problems.add(f"image file missing in {image_root}, {advice}", name[:_MAX_SHOWN])
    opened = found[:: max(1, len(found) // _NUM_OPENED)]
    _check_sizes(opened, image_root, problems, image_format)


def _check_sizes(
    images: list[_Entry], image_root: Path, problems: Problems, image_format: str | int
) -> None:
    """Compare entries with files, whose annotations may be for the upright or the stored image."""
    orientations = Orientations()
    for image in images:
        name, size = image["file_name"], (image.get("height"), image.get("width"))
        try:
            sizes = read_sizes(image_root / name, image_format)
        except ValueError as error:
            problems.add("image file that cannot be used", str(error))
            continue
        if orientations.add(name, size, sizes):
            continue
        if all(isinstance(side, int) and side >= MIN_SIDE for side in size):
            height, width = sizes[1]
            problems.add(
                "image file whose size (by its EXIF orientation, if it has one) is not the "
                "'height' and 'width' of its entry",
                f"{name} ({height} and {width}, not {size[0]} and {size[1]})",
            )
    kind, names = orientations.contradictions()
    for name in names:
        problems.add(kind, name)


def _advice(name: str, image_root: Path, listings: _Listings) -> str:
    """Return why a file may not be found, and what to do; ``listings`` is a cache for calls."""
    path = image_root / name
    if name.startswith("data:"):
        return "'file_name' is not a name but the image itself; store the images as files"
    if "://" in name:
        return "'file_name' is a web address; download the images and name the files"
    if "\\" in name:
        return "'file_name' has backslashes, which separate folders only on Windows; write '/'"
    if PurePath(name).is_absolute():
        return "'file_name' is an absolute path; write it relative to the image folder"
    if os.path.isfile(image_root.parent / name):
        return f"but found in {image_root.parent}; correct the image folder"
    if os.path.isfile(image_root / path.name):
        return "but found there without the folders in 'file_name'; correct the names"
    if path.parent not in listings:
        files = os.listdir(path.parent) if os.path.isdir(path.parent) else ()
        names = {_comparable(file) for file in files}
        listings[path.parent] = names, {PurePath(file).stem for file in names}
    names, stems = listings[path.parent]
    if _comparable(path.name) in names:
        return (
            "but found there with different capitals, accents (Unicode form), spaces at the ends "
            "or percent codes; correct the names"
        )
    if PurePath(_comparable(path.name)).stem in stems:
        return "but found there with another file extension; correct the names"
    return "correct the image folder"


def _comparable(name: str) -> str:
    """Return a form of a file name that is the same for names that are often confused."""
    return unicodedata.normalize("NFC", unquote(name)).strip().lower()
