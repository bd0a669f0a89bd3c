"""Checks of label maps against their images and the classes of a data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from vit_adapter.data.image_io import read_image, read_label_map, read_sizes
from vit_adapter.data.orientation import Orientations
from vit_adapter.data.semantic.sets.label_set import IGNORE_LABEL

MAX_CLASSES = IGNORE_LABEL  # labels 0 to 254

_logger = logging.getLogger(__name__)


def ignore_label(dataset_name: str) -> int:
    """Return the value of pixels that do not count in the label maps of a data set.

    Readers of this project replace it by 255 (``check_values``), the only one that models know.

    Raises:
        ValueError: it is not an integer.
    """
    label = MetadataCatalog.get(dataset_name).get("ignore_label", IGNORE_LABEL)
    if not isinstance(label, Integral) or isinstance(label, bool):
        raise ValueError(
            f"ignore_label of the data set {dataset_name!r} is {label!r}, but must be an integer."
        )
    return int(label)


def read_pair(
    record: Mapping[str, Any],
    image_format: str | int,
    num_classes: int,
    *,
    ignore_label: int = IGNORE_LABEL,
) -> tuple[np.ndarray, np.ndarray]:
    """Read an image with its label map and check that they fit.

    Args:
        record: with ``file_name`` and ``sem_seg_file_name``.
        image_format: as for ``read_image``.
        num_classes, ignore_label: as for ``check_values``.

    Returns:
        The image (H, W, channels) and its labels (H, W) as ``check_values`` returns them.

    Raises:
        FileNotFoundError, ValueError: the files are missing or do not fit; the message names them.
    """
    sem_seg = read_label_map(record["sem_seg_file_name"])
    image = read_image(record["file_name"], image_format, size=sem_seg.shape)
    check_same_size(image, sem_seg, record)
    name = record["sem_seg_file_name"]
    return image, check_values(sem_seg, num_classes, name, ignore_label=ignore_label)


def check_values(
    sem_seg: np.ndarray, num_classes: int, file_name: str, *, ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
    """Check that a label map holds only class indices and the ignored label.

    A map that holds only the ignored label is allowed.

    Args:
        sem_seg: (H, W), integers.
        num_classes: at most ``MAX_CLASSES``.
        file_name: name of the map, for the message.
        ignore_label: value of pixels that do not count; it may equal a class index.

    Returns:
        ``sem_seg`` as uint8, with ``IGNORE_LABEL`` for the pixels that do not count.

    Raises:
        ValueError: it has values that no class has; the message names the file and the values.
    """
    ignored = sem_seg == ignore_label
    wrong = ((sem_seg >= num_classes) | (sem_seg < 0)) & ~ignored
    if wrong.any():
        values = np.unique(sem_seg[wrong]).tolist()
        shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
        raise ValueError(
            f"The label map {file_name} has the values {shown} in {int(wrong.sum())} pixels, "
            f"but there are {num_classes} classes: labels are 0 to {num_classes - 1}, and "
            f"{ignore_label} for pixels that do not count. Name all classes, or convert the "
            "maps. Usual causes are special values of this data set, and labels that count from 1."
        )
    if ignore_label != IGNORE_LABEL:
        sem_seg = np.where(ignored, IGNORE_LABEL, sem_seg)
    return sem_seg.astype(np.uint8, copy=False)


def check_same_size(image: np.ndarray, sem_seg: np.ndarray, record: Mapping[str, Any]) -> None:
    """Raise a ValueError that names both files unless image and label map have the same size.

    Args:
        image: (H, W, channels).
        sem_seg: (H, W).
        record: with ``file_name`` and ``sem_seg_file_name``.
    """
    if image.shape[:2] != sem_seg.shape:
        sizes = [f"{shape[1]} x {shape[0]}" for shape in (image.shape, sem_seg.shape)]
        raise ValueError(
            f"The image {record['file_name']} has {sizes[0]} pixels (width x height), but its "
            f"label map {record['sem_seg_file_name']} has {sizes[1]}. They must have the same "
            "size, after any EXIF orientation is applied."
        )


def check_label_files(
    records: Sequence[Mapping[str, Any]],
    num_classes: int,
    *,
    most: int | None = None,
    image_format: str | int = "RGB",
) -> None:
    """Read images with their label maps and check them before training starts.

    Args:
        records: with ``file_name`` and ``sem_seg_file_name``.
        num_classes: number of classes of the data set.
        most: how many pairs to read, spread evenly over the records; None for all of them, which
            takes as long as reading the whole data set and shows a progress bar.
        image_format: as for ``read_image``.

    Raises:
        FileNotFoundError, ValueError: the first problem, with the names of the files; labels that
            follow the EXIF orientation of some images but perhaps not of others; or only one class
            and the ignored label, as in masks of paint programs, where 255 is the object.
    """
    chosen = records
    if most is not None and most < len(records):
        chosen = [records[i * len(records) // most] for i in range(most)]
    only_ignored = 0
    found: set[int] = set()
    orientations = Orientations()
    for record in tqdm(chosen, desc="Checking labels", unit="image", disable=most is not None):
        _, sem_seg = read_pair(record, image_format, num_classes)
        sizes = read_sizes(record["file_name"], image_format)
        orientations.add(record["file_name"], sem_seg.shape, sizes)
        found.update(np.unique(sem_seg).tolist())
        only_ignored += bool((sem_seg == IGNORE_LABEL).all())
    problem, names = orientations.contradictions()
    if names:
        raise ValueError(f"{len(names)} x {problem}: for example {names[0]}.")
    labelled = found - {IGNORE_LABEL}
    if len(labelled) == 1:
        _check_second_class(records, num_classes, found)
    elif labelled and len(chosen) == len(records):
        _warn_of_absent_classes(num_classes, labelled)
    if only_ignored:
        _logger.warning(
            "%d of %d label maps hold only the ignored label %d, so nothing is learnt from their "
            "images.",
            only_ignored,
            len(chosen),
            IGNORE_LABEL,
        )


def _warn_of_absent_classes(num_classes: int, labelled: set[int]) -> None:
    absent = [index for index in range(num_classes) if index not in labelled]
    if absent:
        _logger.warning(
            "No label map holds the classes %s (counted from 0). If they should, check that "
            "labels count from 0, and that no class has the value %d, which marks pixels that do "
            "not count.",
            ", ".join(map(str, absent)),
            IGNORE_LABEL,
        )


def _check_second_class(
    records: Sequence[Mapping[str, Any]], num_classes: int, found: set[int]
) -> None:
    """Look for a class other than the one that was found, in all maps if necessary."""
    for record in records:
        found = found.union(np.unique(read_label_map(record["sem_seg_file_name"])).tolist())
        if len(found - {IGNORE_LABEL}) > 1:
            return
    first, which = min(found), f"{records[0]['sem_seg_file_name']} and all others"
    if IGNORE_LABEL not in found:
        if num_classes > 1:
            _logger.warning("All label maps hold nothing but the class %d (%s).", first, which)
        return
    message = (
        f"The label maps hold only {first} and {IGNORE_LABEL} ({which}). {IGNORE_LABEL} marks "
        f"pixels that do not count, so only the class {first} can be learnt. If a paint program "
        f"wrote {IGNORE_LABEL} for the object, replace it by the index of its class, such as 1."
    )
    if num_classes > 1:
        raise ValueError(message)
    _logger.warning("%s", message)
