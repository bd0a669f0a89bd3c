"""Registers custom data in COCO's instance format, and refuses broken data with reasons.

Errors in the file would otherwise show up hours later, or only as a bad score: Detectron2 silently
drops invalid polygons, and fails on a missing image in the middle of training.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets import load_coco_json

from vit_adapter.data.instances.coco_file import is_plain_utf8, read_coco_json, temporary_json
from vit_adapter.data.instances.coco_images import check_image_files
from vit_adapter.data.instances.coco_oddities import warn_of_oddities
from vit_adapter.data.instances.coco_problems import (
    Problems,
    check_annotations,
    check_categories,
    check_images,
)
from vit_adapter.data.instances.coco_values import normalise

_logger = logging.getLogger(__name__)


def register_coco_format(
    name: str,
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    image_format: str | int = "RGB",
) -> Metadata:
    """Check a whole COCO-format data set and register it in Detectron2's catalogs.

    Category ids may be any integers. As everywhere in Detectron2, they are mapped to 0, 1, 2 ... in
    increasing order. Values of types that COCO does not use (numbers as strings, null for unknown
    values) are converted if their meaning is clear. Registering the same name with the same paths
    again changes nothing.

    Args:
        name: for configs, such as ``"cells_train"``.
        json_file: instance annotations; masks may be polygons or run-length codes, or absent from
            every annotation. A test set may come without annotations.
        image_root: folder to which the ``file_name`` of each image is relative.
        image_format: as for ``read_image``.

    Returns:
        The metadata: ``thing_classes``, ``json_file``, ``image_root``, ``evaluator_type``,
        ``num_objects`` (annotations that training does not leave out) and ``mask_format``, which
        is "polygon", "bitmask" (some masks are run-length codes) or None.

    Raises:
        FileNotFoundError: the JSON file or the image folder does not exist.
        ValueError: the name is already used for other data, or the data are broken. The message
            lists every kind of problem with the number of cases and the first few of them.
    """
    json_file, image_root = Path(json_file).absolute(), Path(image_root).absolute()
    if name in DatasetCatalog:
        _check_same_registration(name, json_file, image_root)
        return MetadataCatalog.get(name)
    content = read_coco_json(json_file)
    if not image_root.is_dir():
        raise FileNotFoundError(
            f"The image folder {image_root} of data set {name!r} does not exist. Give the folder "
            f"to which the file names in {json_file} are relative."
        )
    changed = normalise(content, image_root)
    mask_format = _check(content, json_file, image_root, image_format)
    _warn_of_other_types(changed, json_file)
    # Only files that Detectron2 would read differently are copied, because they can be large.
    usual = not changed and "annotations" in content and is_plain_utf8(json_file)
    load = load_coco_json if usual else _load_normalised
    DatasetCatalog.register(name, partial(load, str(json_file), str(image_root), name))
    categories = sorted(content["categories"], key=lambda category: category["id"])
    return MetadataCatalog.get(name).set(
        json_file=str(json_file),
        image_root=str(image_root),
        evaluator_type="coco",
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id={c["id"]: i for i, c in enumerate(categories)},
        mask_format=mask_format,
        num_objects=sum(map(_is_learnt, content.get("annotations", ()))),
    )


def _check(
    content: dict[str, Any], json_file: Path, image_root: Path, image_format: str | int
) -> str | None:
    """Check every entry of normalised content, and the image files.

    Returns:
        The format in which masks must be read: "polygon", "bitmask", or None if there are none.

    Raises:
        ValueError: there are problems; the message lists all kinds.
    """
    problems = Problems()
    annotations = content.get("annotations", [])
    category_ids = check_categories(content["categories"], problems)
    images = check_images(content["images"], problems)
    check_image_files(images.values(), image_root, problems, image_format=image_format)
    mask_format = check_annotations(annotations, images, category_ids, problems)
    if problems:
        raise ValueError(f"{json_file} cannot be used:\n{problems.describe()}")
    warn_of_oddities(annotations, images, json_file)
    return mask_format


def _warn_of_other_types(changed: Counter[str], json_file: Path) -> None:
    if changed:
        _logger.warning(
            "%s has values that COCO writes differently, such as strings or null for numbers, or "
            "backslashes in file names. They are converted: %s.",
            json_file,
            ", ".join(f"{count} x {key!r}" for key, count in changed.items()),
        )


def _is_learnt(annotation: dict[str, Any]) -> bool:
    return not annotation.get("iscrowd") and 0 not in annotation["bbox"][2:]


def _load_normalised(json_file: str, image_root: str, name: str) -> list[dict[str, Any]]:
    """Do the same as Detectron2's ``load_coco_json``, with values converted to COCO's types."""
    content = read_coco_json(Path(json_file))
    normalise(content, Path(image_root))
    with temporary_json(content, Path(json_file).name) as path:
        return load_coco_json(path, image_root, name)


def _check_same_registration(name: str, json_file: Path, image_root: Path) -> None:
    metadata = MetadataCatalog.get(name)
    found = metadata.get("json_file"), metadata.get("image_root")
    if found != (str(json_file), str(image_root)):
        raise ValueError(
            f"The data set name {name!r} is already registered with json_file={found[0]} and "
            f"image_root={found[1]}, not {json_file} and {image_root}. Choose another name."
        )
