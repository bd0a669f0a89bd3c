"""Checks of a data set's records: files, sizes, repetitions, boxes and masks, labels.

They are the checks that your own data get when they are registered, for any registered data set,
and on more files.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from tqdm import tqdm

from vit_adapter.data.checks import class_names
from vit_adapter.data.image_io import read_image
from vit_adapter.data.instances.coco_images import check_image_files
from vit_adapter.data.instances.coco_oddities import warn_of_oddities
from vit_adapter.data.instances.coco_problems import Problems, check_annotations
from vit_adapter.data.panoptic.map_checks import check_map_files
from vit_adapter.data.semantic.label_checks import ignore_label, read_pair
from vit_adapter.data.semantic.sets.label_set import IGNORE_LABEL

__all__ = ["boxes_of", "check_records", "read_all"]

Record = Mapping[str, Any]

_SIDES = ("height", "width")

_UNREADABLE = "file that cannot be read or used; replace it, or remove it from the data set"


def check_records(
    name: str, records: Sequence[Record], kind: str, *, image_format: str | int = "RGB"
) -> list[str]:
    """Check what needs no pixels: names, ids, headers of images, boxes, masks, lists of segments.

    Oddities that may be intended are logged as warnings.

    Args:
        name: of the data set in Detectron2's catalogs.
        records: of the data set; not empty.
        kind: the task, "instances", "semantic" or "panoptic".
        image_format: as for ``read_image``.

    Returns:
        A text for each kind of problem, with the first few cases.
    """
    problems = Problems()
    _check_repetitions(records, kind, problems)
    root = _common_folder(record["file_name"] for record in records)
    entries = [_entry(record, root) for record in records]
    check_image_files(entries, root, problems, image_format=image_format)
    if kind == "panoptic":
        _check_maps(records, problems)
    texts = problems.describe_kinds()
    # The annotations of your own data have been checked when they were registered.
    if kind == "instances" and MetadataCatalog.get(name).get("num_objects") is None:
        texts += _check_objects(name, records, root)
    return texts


def read_all(
    name: str,
    records: Sequence[Record],
    kind: str,
    problems: Problems,
    *,
    image_format: str | int = "RGB",
) -> tuple[list[tuple[int, int]], Counter[int]]:
    """Decode images, and semantic label maps with them, with a progress bar.

    Args:
        name, kind: as above.
        records: the records to read.
        problems: collects the files that cannot be used.
        image_format: as for ``read_image``.

    Returns:
        The (height, width) of the images that can be read, and for each label the number of images
        that show it (only for semantic data).
    """
    sizes: list[tuple[int, int]] = []
    labels: Counter[int] = Counter()
    if kind == "semantic":
        options = {"ignore_label": ignore_label(name)}
        num_classes = len(class_names(name, kind="stuff"))
    for record in tqdm(records, desc=f"Reading images of {name}", unit="image", leave=False):
        try:
            if kind == "semantic":
                image, sem_seg = read_pair(record, image_format, num_classes, **options)
                labels.update(set(np.unique(sem_seg).tolist()) - {IGNORE_LABEL})
            else:
                image = read_image(record["file_name"], image_format, size=_size(record))
        except (OSError, ValueError) as error:
            problems.add(_UNREADABLE, str(error))
        else:
            sizes.append(image.shape[:2])
    return sizes, labels


def boxes_of(record: Record) -> Iterator[tuple[Record, list[float]]]:
    """Yield the annotations of a record with their boxes (x, y, width, height) in pixels."""
    for annotation in record.get("annotations", ()):
        box = list(map(float, annotation["bbox"]))
        mode = annotation.get("bbox_mode", BoxMode.XYWH_ABS)
        yield annotation, BoxMode.convert(box, mode, BoxMode.XYWH_ABS)


def _size(record: Record) -> tuple[int, int] | None:
    return (record["height"], record["width"]) if "height" in record else None


def _common_folder(files: Iterable[str]) -> Path:
    return Path(os.path.commonpath({os.path.dirname(os.path.abspath(file)) for file in files}))


def _entry(record: Record, root: Path) -> dict[str, Any]:
    """Return the entry of an image as in a COCO file whose names are relative to ``root``."""
    name = os.path.relpath(os.path.abspath(record["file_name"]), root)
    return {"file_name": name, **{key: record[key] for key in _SIDES if key in record}}


def _check_repetitions(records: Sequence[Record], kind: str, problems: Problems) -> None:
    files = Counter(os.path.normpath(record["file_name"]) for record in records)
    for file, count in files.items():
        if count > 1:
            problems.add(
                "image file in several records; list each file once, with all of its labels",
                f"{file} ({count} times)",
            )
    if kind != "semantic":
        for image_id, count in Counter(record["image_id"] for record in records).items():
            if count > 1:
                problems.add(
                    "image id that occurs more than once; evaluators need different ids",
                    f"{image_id!r} ({count} times)",
                )


def _check_objects(name: str, records: Sequence[Record], root: Path) -> list[str]:
    """Check the annotations as if they were those of a COCO file."""
    images = {record["image_id"]: _entry(record, root) for record in records}
    annotations = [
        {
            "id": f"{number} ({record['image_id']})",
            "image_id": record["image_id"],
            "category_id": annotation["category_id"],
            "iscrowd": annotation.get("iscrowd", 0),
            "bbox": box,
            "segmentation": _plain_mask(annotation.get("segmentation")),
        }
        for record in records
        for number, (annotation, box) in enumerate(boxes_of(record), start=1)
    ]
    found = Problems()
    check_annotations(annotations, images, set(range(len(class_names(name)))), found)
    if not found:
        warn_of_oddities(annotations, images, Path(name))
    return found.describe_kinds()


def _plain_mask(segmentation: Any) -> Any:
    """Return polygons as lists of numbers; other masks as they are."""
    if isinstance(segmentation, list):
        return [np.asarray(polygon, dtype=float).tolist() for polygon in segmentation]
    return segmentation


def _check_maps(records: Sequence[Record], problems: Problems) -> None:
    root = _common_folder(record["pan_seg_file_name"] for record in records)
    annotations = [
        {**record, "file_name": os.path.relpath(record["pan_seg_file_name"], root)}
        for record in records
    ]
    check_map_files(annotations, {r["image_id"]: dict(r) for r in records}, root, problems)
