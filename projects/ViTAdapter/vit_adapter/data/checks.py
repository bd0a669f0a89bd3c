"""Checks that data sets and the model fit together, before training or evaluation starts."""

from __future__ import annotations

import logging
from collections import Counter

from detectron2.data import DatasetCatalog, MetadataCatalog

from vit_adapter.utils.hints import did_you_mean

_KINDS = ("thing", "stuff")

_logger = logging.getLogger(__name__)


def class_names(dataset_name: str, *, kind: str = "thing") -> list[str]:
    """Return the classes of a registered data set, in the order of the model's class indices.

    Args:
        dataset_name: name in Detectron2's catalogs.
        kind: "thing" for instances, "stuff" for semantic labels.

    Raises:
        ValueError: there is no such data set, or its classes of this kind are unknown.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {_KINDS}, but is {kind!r}.")
    check_registered(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    if not metadata.get(f"{kind}_classes"):
        DatasetCatalog.get(dataset_name)  # Detectron2's COCO loader sets the classes as it reads
    names = metadata.get(f"{kind}_classes")
    if not names:
        raise ValueError(
            f"The data set {dataset_name!r} has no {kind} classes. Set "
            f"MetadataCatalog.get({dataset_name!r}).{kind}_classes where it is registered."
        )
    return list(names)


def category_ids(dataset_name: str) -> list[int]:
    """Return the category ids of a registered data set, in the order of the model's class indices.

    Things and stuff have to share one range of indices, as those of your own data do.

    Returns:
        The ids; empty if the metadata have none, as those of label maps, whose values are indices.
    """
    metadata = MetadataCatalog.get(dataset_name)
    parts = (metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {} for kind in _KINDS)
    indexes = {identifier: index for part in parts for identifier, index in part.items()}
    return sorted(indexes, key=indexes.__getitem__)


def check_registered(dataset_name: str) -> None:
    """Raise a ValueError that names similar data sets if this one is not registered."""
    if dataset_name not in DatasetCatalog:
        known = DatasetCatalog.list()
        every = f"The registered names are {', '.join(sorted(known))}."
        raise ValueError(
            f"No data set is registered as {dataset_name!r}."
            f"{did_you_mean(dataset_name, known, cutoff=0.6, otherwise=every)} Your own data need "
            "no name: set data.train_images and data.val_images with data.train_json "
            "and data.val_json, for semantic labels with data.train_labels and data.val_labels, "
            "and for panoptic segments with data.train_panoptic_json, data.train_panoptic_pngs, "
            "data.val_panoptic_json and data.val_panoptic_pngs."
        )


def check_num_classes(
    dataset_name: str,
    num_classes: int,
    *,
    override_key: str = "model.roi_heads.num_classes",
    kind: str = "thing",
) -> None:
    """Raise a ValueError unless the model predicts exactly the classes of the data set.

    Two classes of the same name only cause a warning: no data set of this project has any.

    Args:
        dataset_name: name in Detectron2's catalogs.
        num_classes: number of classes of the model, not counting the background.
        override_key: the config's key of ``num_classes``, for the message.
        kind: "thing" or "stuff".
    """
    names = class_names(dataset_name, kind=kind)
    if len(names) != num_classes:
        raise ValueError(
            f"The data set {dataset_name!r} has {len(names)} {kind} classes ({_shorten(names)}), "
            f"but the model has {override_key}={num_classes}. Add the override "
            f"{override_key}={len(names)}, or choose the data set that the model is made for."
        )
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        _logger.warning(
            "The data set %r has more than one class with the name %s. Results have one entry for "
            "each name, which is that of the last class.",
            dataset_name,
            _shorten(repeated),
        )


def check_same_classes(train_name: str, test_name: str, *, kind: str = "thing") -> None:
    """Raise a ValueError unless two data sets have the same classes in the same order."""
    train, test = class_names(train_name, kind=kind), class_names(test_name, kind=kind)
    if train != test:
        raise ValueError(
            f"The classes of {train_name!r} ({_shorten(train)}) differ from those of "
            f"{test_name!r} ({_shorten(test)}), so predictions would be counted under wrong names. "
            "List the same categories with the same ids in both annotation files."
        )


def check_has_objects(dataset_name: str) -> None:
    """Raise a ValueError if a data set for training is known to have no objects to learn from."""
    check_registered(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("num_objects") == 0:
        raise ValueError(
            f"The training data set {dataset_name!r} ({metadata.get('json_file')}) has no objects "
            "to learn from: it has no annotations, or training leaves out all of them, as crowds "
            "(for single objects 'iscrowd' must be 0) or because their boxes have no area."
        )


def check_mask_format(
    dataset_name: str,
    mask_format: str,
    *,
    override_key: str = "dataloader.train.mapper.instance_mask_format",
) -> None:
    """Raise a ValueError if the mapper cannot read the masks of a data set.

    Only data sets whose format is known are checked: those that this project registers.

    Args:
        dataset_name: name in Detectron2's catalogs.
        mask_format: the mapper's format, "polygon" or "bitmask", which reads both kinds.
        override_key: the config's key of ``mask_format``, for the message.
    """
    check_registered(dataset_name)
    found = MetadataCatalog.get(dataset_name).get("mask_format", mask_format)
    if found is None:
        raise ValueError(
            f"The annotations of {dataset_name!r} have no masks, but the model learns masks. Add "
            "'segmentation' to the annotations. (Mask R-CNN also trains without masks, but only if "
            "none of its training data sets have any.)"
        )
    if found == "bitmask" and mask_format != "bitmask":
        raise ValueError(
            f"Masks of {dataset_name!r} are run-length codes, which {override_key}={mask_format} "
            f"cannot read. Add the override {override_key}=bitmask."
        )


def _shorten(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
