"""Registers custom data in COCO's panoptic format, and refuses broken data with reasons."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from vit_adapter.data.instances.coco_file import read_coco_json
from vit_adapter.data.instances.coco_images import check_image_files
from vit_adapter.data.instances.coco_problems import Problems, check_images
from vit_adapter.data.instances.coco_values import flag, normalise
from vit_adapter.data.panoptic.map_checks import check_map_files
from vit_adapter.data.panoptic.problems import (
    check_panoptic_annotations,
    check_panoptic_categories,
)
from vit_adapter.data.panoptic.records import class_metadata, load_records, things_first

_Entry = dict[str, Any]


def register_panoptic_format(
    name: str,
    json_file: str | os.PathLike[str],
    map_root: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    check_all: bool = False,
    image_format: str | int = "RGB",
) -> Metadata:
    """Check a whole data set in COCO's panoptic format and register it in Detectron2's catalogs.

    Category ids may be any integers. The model's classes are the things and then the stuff, both in
    the order of their ids. Pixels with the id 0 have no label. All entries and file names are
    checked, but only some of the segment maps are read unless ``check_all`` is set; the rest is
    checked when it is loaded.

    Args:
        name: for configs, such as ``"streets_train"``; must not be in use.
        json_file: panoptic annotations.
        map_root: folder to which the ``file_name`` of each annotation is relative: PNG files of
            segment ids, coded as R + 256 G + 256^2 B.
        image_root: folder to which the ``file_name`` of each image is relative.
        check_all: read every segment map, with a progress bar.
        image_format: as for ``read_image``.

    Returns:
        The metadata, as :mod:`vit_adapter.data.panoptic.classes` describes it.

    Raises:
        FileNotFoundError: the JSON file or a folder does not exist.
        ValueError: the data are broken. The message lists every kind of problem with the number of
            cases and the first few of them.
    """
    json_file, map_root, image_root = (
        Path(p).absolute() for p in (json_file, map_root, image_root)
    )
    content = read_coco_json(json_file)
    for folder, files in ((image_root, "images"), (map_root, "annotations")):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"The folder {folder} of data set {name!r} does not exist. Give the folder to "
                f"which the file names of the {files!r} in {json_file} are relative."
            )
    _normalise(content, image_root)
    _check(content, json_file, map_root, image_root, check_all=check_all, image_format=image_format)
    categories = things_first(content["categories"])
    records = load_records(content, categories, map_root, image_root)
    DatasetCatalog.register(name, partial(_copies, records))
    return MetadataCatalog.get(name).set(
        panoptic_json=str(json_file),
        panoptic_root=str(map_root),
        image_root=str(image_root),
        **class_metadata(categories),
    )


def _check(
    content: _Entry,
    json_file: Path,
    map_root: Path,
    image_root: Path,
    *,
    check_all: bool,
    image_format: str | int,
) -> None:
    """Raise a ValueError that lists all problems of normalised content, if there are any."""
    if "annotations" not in content:
        raise ValueError(f"{json_file} has no 'annotations', so there is nothing to learn from.")
    problems = Problems()
    is_thing = check_panoptic_categories(content["categories"], problems)
    images = check_images(content["images"], problems)
    annotations = check_panoptic_annotations(content["annotations"], images, is_thing, problems)
    check_image_files(images.values(), image_root, problems, image_format=image_format)
    check_map_files(annotations, images, map_root, problems, check_all=check_all)
    if problems:
        raise ValueError(f"{json_file} cannot be used:\n{problems.describe()}")


def _normalise(content: _Entry, image_root: Path) -> None:
    """Convert values of types that COCO does not use, such as numbers as strings, in place."""
    normalise(content, image_root)
    lists = (each.get("segments_info") for each in content.get("annotations", ()))
    segments = [s for each in lists if isinstance(each, list) for s in each if isinstance(s, dict)]
    normalise({**content, "annotations": segments})
    for category in content["categories"]:
        if category.get("isthing") is not None and flag(category["isthing"]) is not None:
            category["isthing"] = flag(category["isthing"])


def _copies(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [dict(record) for record in records]
