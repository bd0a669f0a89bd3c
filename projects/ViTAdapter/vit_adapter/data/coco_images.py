"""Checks that the image files of a COCO data set are there, and as large as it says."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path, PurePath
from typing import Any

from vit_adapter.data.coco_problems import Problems
from vit_adapter.data.image_io import MIN_SIDE, read_sizes

_Entry = dict[str, Any]

_NUM_OPENED = 5000  # files whose headers are read, which takes about a second

_logger = logging.getLogger(__name__)


def check_image_files(
    images: Collection[_Entry], image_root: Path, problems: Problems
) -> None:
    """Check that all files exist, and that many of them have the sizes that their entries say.

    Of a large set some files are opened, spread evenly, and only their headers are read.

    Args:
        images: entries with a ``file_name``.
        image_root: folder that the names are relative to.
        problems: gets those that are found.
    """
    listings: dict[Path, dict[str, str]] = {}
    found = []
    for image in images:
        name = image["file_name"]
        if (image_root / name).is_file():
            found.append(image)
        else:
            advice = _advice(name, image_root, listings)
            problems.add(f"image file missing in {image_root}, {advice}", name)
    _check_sizes(found[:: max(1, len(found) // _NUM_OPENED)], image_root, problems)


def _check_sizes(images: list[_Entry], image_root: Path, problems: Problems) -> None:
    """Compare entries with files, which may be annotated upright or as they are stored.

    The reader goes by the size. Where that leaves it open, upright is meant, unless another image
    shows that the data were annotated with a tool that does not know the EXIF orientation.
    """
    as_stored: list[str] = []
    unclear: list[str] = []
    for image in images:
        name, size = image["file_name"], (image.get("height"), image.get("width"))
        try:
            stored, upright, turned = read_sizes(image_root / name)
        except ValueError as error:
            problems.add("image file that cannot be used", str(error))
            continue
        if size == upright:
            unclear += [name] if turned and stored == upright else []
        elif size == stored:
            as_stored.append(name)
        elif all(isinstance(side, int) and side >= MIN_SIDE for side in size):
            problems.add(
                "image file whose size (by its EXIF orientation, if it has one) is not the "
                "'height' and 'width' of its entry",
                f"{name} ({upright[0]} and {upright[1]}, not {size[0]} and {size[1]})",
            )
    if as_stored:
        _logger.warning(
            "%d images are annotated as they are stored, without regard to their EXIF "
            "orientation, and are read like that: %s.", len(as_stored), _first(as_stored),
        )
        for name in unclear:
            problems.add(
                f"image whose EXIF orientation does not change its size, while others "
                f"({as_stored[0]}) are annotated as if they had none; store all images upright",
                name,
            )
    elif unclear:
        _logger.warning(
            "%d images have an EXIF orientation that does not change their size; they are taken to "
            "be annotated upright, not as they are stored: %s.", len(unclear), _first(unclear),
        )


def _first(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _advice(name: str, image_root: Path, listings: dict[Path, dict[str, str]]) -> str:
    """Return why a file may not be found, and what to do; ``listings`` are kept between calls."""
    path = image_root / name
    if "://" in name:
        return "'file_name' is a web address; download the images and name the files"
    if "\\" in name:
        return "'file_name' has backslashes, which separate folders on Windows alone; write '/'"
    if PurePath(name).is_absolute():
        return "'file_name' is an absolute path; write it relative to the image folder"
    if (image_root.parent / name).is_file():
        return f"but found in {image_root.parent}; correct the image folder"
    if (image_root / path.name).is_file():
        return "but found there without the folders in 'file_name'; correct the names"
    if path.parent not in listings:
        files = path.parent.iterdir() if path.parent.is_dir() else ()
        listings[path.parent] = {file.name.lower(): file.name for file in files}
    if path.name.lower() in listings[path.parent]:
        return "but found there with other capital letters; correct the names"
    return "correct the image folder"
