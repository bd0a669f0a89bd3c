"""Registers a user's own data in COCO's instance format; broken data are refused with reasons.

What is wrong in such a file otherwise shows up hours later, or only as a bad score: Detectron2
drops invalid polygons in silence, and fails on a missing image in the middle of the training.
"""

from __future__ import annotations

import json
import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets import load_coco_json

from vit_adapter.data.coco_problems import (
    Problems,
    check_annotations,
    check_categories,
    check_images,
)

_SECTIONS = ("images", "annotations", "categories")

_logger = logging.getLogger(__name__)


def register_coco_format(
    name: str, json_file: str | os.PathLike[str], image_root: str | os.PathLike[str]
) -> Metadata:
    """Check a COCO-format data set as a whole and register it in Detectron2's catalogs.

    Category ids may be any integers: as everywhere in Detectron2, they are mapped to 0, 1, 2 ... in
    increasing order. Registering the same name with the same paths again changes nothing.

    Args:
        name: for configs, such as ``"cells_train"``.
        json_file: instance annotations; masks may be polygons or run-length codes, or absent from
            every annotation.
        image_root: folder that the ``file_name`` of each image is relative to.

    Returns:
        The metadata: ``thing_classes``, ``json_file``, ``image_root``, ``evaluator_type`` and
        ``mask_format``, which is "polygon", "bitmask" (some masks are run-length codes) or None.

    Raises:
        FileNotFoundError: the JSON file or the image folder does not exist.
        ValueError: the name is taken by other data, or the data are broken; every kind of problem
            is listed with the number of cases and the first few of them.
    """
    json_file, image_root = Path(json_file).absolute(), Path(image_root).absolute()
    if name in DatasetCatalog:
        _check_same_registration(name, json_file, image_root)
        return MetadataCatalog.get(name)
    content = read_coco_json(json_file)
    if not image_root.is_dir():
        raise FileNotFoundError(
            f"The image folder {image_root} of data set {name!r} does not exist. It is the folder "
            f"that the file names in {json_file} are relative to."
        )
    mask_format = check_coco_content(content, json_file, image_root)
    categories = sorted(content["categories"], key=_category_id)
    DatasetCatalog.register(name, partial(load_coco_json, str(json_file), str(image_root), name))
    return MetadataCatalog.get(name).set(
        json_file=str(json_file),
        image_root=str(image_root),
        evaluator_type="coco",
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id={c["id"]: i for i, c in enumerate(categories)},
        mask_format=mask_format,
    )


def read_coco_json(json_file: Path) -> dict[str, Any]:
    """Read an annotation file and check its outermost structure.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON (line and column are named), or lacks one of COCO's sections.
    """
    if not json_file.is_file():
        raise FileNotFoundError(f"The annotation file {json_file} does not exist, or is no file.")
    try:
        content = json.loads(json_file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{json_file} is not valid JSON: {error.msg} at line {error.lineno}, column "
            f"{error.colno}. The file may be truncated or not fully downloaded; export or copy it "
            "again."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{json_file} is not a text file in UTF-8 ({error.reason} at byte {error.start}). "
            "Give the COCO annotation file itself, not an archive or an image."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{json_file} holds a {type(content).__name__}, but COCO's instance format is an "
            f"object with the keys {', '.join(_SECTIONS)}. (A list is the format of results.)"
        )
    missing = [key for key in _SECTIONS if key not in content]
    if missing:
        raise ValueError(
            f"{json_file} lacks {' and '.join(map(repr, missing))}; it has the keys "
            f"{sorted(content)}. COCO's instance format needs {', '.join(_SECTIONS)}."
        )
    for key in _SECTIONS:
        section = content[key]
        if not isinstance(section, list) or not all(isinstance(entry, dict) for entry in section):
            raise ValueError(f"{key!r} in {json_file} must be a list of objects.")
        if not section:
            raise ValueError(f"{key!r} in {json_file} is empty: there is nothing to learn from.")
    return content


def check_coco_content(content: dict[str, Any], json_file: Path, image_root: Path) -> str | None:
    """Check every entry of a file from ``read_coco_json`` and that the images exist.

    Returns:
        The format that masks must be read in: "polygon", "bitmask", or None if there are none.

    Raises:
        ValueError: listing all kinds of problems found.
    """
    problems = Problems()
    category_ids = check_categories(content["categories"], problems)
    images = check_images(content["images"], image_root, problems)
    mask_format = check_annotations(content["annotations"], images, category_ids, problems)
    if problems:
        raise ValueError(f"{json_file} cannot be used:\n{problems.describe()}")
    without_area = sum(0 in annotation["bbox"][2:] for annotation in content["annotations"])
    if without_area:
        _logger.warning(
            "%d of %d boxes in %s have no area; training leaves them out.",
            without_area,
            len(content["annotations"]),
            json_file,
        )
    overhanging = _count_overhanging_boxes(content["annotations"], images)
    if overhanging:
        _logger.warning(
            "%d of %d boxes in %s reach beyond their image and will be clipped. COCO boxes are "
            "(x, y, width, height); check that these are not (x1, y1, x2, y2).",
            overhanging,
            len(content["annotations"]),
            json_file,
        )
    return mask_format


def _category_id(category: dict[str, Any]) -> int:
    return category["id"]


def _check_same_registration(name: str, json_file: Path, image_root: Path) -> None:
    metadata = MetadataCatalog.get(name)
    found = metadata.get("json_file"), metadata.get("image_root")
    if found != (str(json_file), str(image_root)):
        raise ValueError(
            f"The data set name {name!r} is already registered with json_file={found[0]} and "
            f"image_root={found[1]}, not {json_file} and {image_root}. Choose another name."
        )


def _count_overhanging_boxes(
    annotations: list[dict[str, Any]], images: dict[int | str, dict[str, Any]]
) -> int:
    """Count boxes that leave their image by more than a pixel, which rounding may account for."""
    count = 0
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        image = images[annotation["image_id"]]
        over_x, over_y = x + width - image["width"], y + height - image["height"]
        count += x < -1 or y < -1 or over_x > 1 or over_y > 1
    return count
