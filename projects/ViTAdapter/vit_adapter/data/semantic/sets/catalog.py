"""Registers the public data sets under the names that configs use.

The data root is ``$DETECTRON2_DATASETS``, or ``datasets`` in the working directory. It is read when
this package is imported, as Detectron2 does for its own paths. Files are looked for when a data set
is used. ``tools/prepare_dataset.py`` writes the label maps; the metadata of each name contain the
command.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog, get_detection_dataset_dicts

from vit_adapter.data.catalog import data_root, describe_data_root, register
from vit_adapter.data.checks import check_registered
from vit_adapter.data.semantic.label_folders import find_label_pairs
from vit_adapter.data.semantic.sets.definition import Split
from vit_adapter.data.semantic.sets.label_set import IGNORE_LABEL
from vit_adapter.data.semantic.sets.table import SETS


def register_semantic_sets(root: str | os.PathLike[str] | None = None) -> None:
    """Register the public data sets, and complete the metadata of those in Detectron2.

    Registering again points the names to the new root; Detectron2's own data sets stay where they
    are.

    Args:
        root: the data root, ``data_root()`` if None.
    """
    root = data_root() if root is None else Path(root).expanduser().absolute()
    for name, data_set in SETS.items():
        preparation = f"prepare_dataset.py {name}"
        for split in data_set.splits:
            if data_set.in_detectron2:
                colors = list(split.label_set.colors)
                MetadataCatalog.get(split.name).set(stuff_colors=colors, preparation=preparation)
            else:
                _register(split.below(root), preparation)


def check_prepared(dataset_name: str) -> None:
    """Check that the files of a data set exist and are prepared, if it is one of this package.

    Raises:
        ValueError: no data set has that name.
        FileNotFoundError: something is missing. The message names it, the data root and how to
            prepare the data set.
    """
    check_registered(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("preparation") is None:
        return
    keys = ("image_root", "sem_seg_root", "panoptic_root", "image_dir", "gt_dir")
    folders = [metadata.get(key) for key in keys]
    for folder in filter(None, folders):
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"The data set {dataset_name!r} needs the folder {os.path.abspath(folder)}, which "
                f"does not exist. {_advice(metadata.preparation)}"
            )
    panoptic_json = metadata.get("panoptic_json")
    if panoptic_json and not os.path.isfile(panoptic_json):
        raise FileNotFoundError(
            f"The data set {dataset_name!r} needs the file {os.path.abspath(panoptic_json)}, which "
            f"does not exist. {_advice(metadata.preparation)}"
        )
    gt_dir = metadata.get("gt_dir")  # Cityscapes, whose prepared labels are next to the others
    if gt_dir and not any(Path(gt_dir).glob("*/*_labelTrainIds.png")):
        raise FileNotFoundError(
            f"The data set {dataset_name!r} has no files */*_labelTrainIds.png in "
            f"{os.path.abspath(gt_dir)}. {_advice(metadata.preparation)}"
        )


def semantic_dataset_dicts(names: str | Sequence[str]) -> list[dict[str, Any]]:
    """Return the records of one or more data sets, for ``dataset`` of Detectron2's data loaders.

    Args:
        names: one or several names in Detectron2's catalogs, whose records are joined.

    Raises:
        ValueError: no data set has that name, or its files are incomplete.
        FileNotFoundError: see :func:`check_prepared`.
    """
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        check_prepared(name)
    return get_detection_dataset_dicts(names, filter_empty=False)


def _register(split: Split, preparation: str) -> None:
    register(
        split.name,
        partial(_load, split, preparation),
        image_root=str(split.images),
        sem_seg_root=str(split.prepared),
        evaluator_type="sem_seg",
        ignore_label=IGNORE_LABEL,
        stuff_classes=list(split.label_set.names),
        stuff_colors=list(split.label_set.colors),
        preparation=preparation,
    )


def _load(split: Split, preparation: str) -> list[dict[str, str]]:
    check_prepared(split.name)
    advice = _advice(preparation)
    names = None
    if split.names_file is not None:
        if not split.names_file.is_file():
            raise FileNotFoundError(
                f"The data set {split.name!r} needs {split.names_file}, a list of its images, "
                f"which does not exist. {advice}"
            )
        names = split.listed_names()
    return find_label_pairs(
        split.images,
        split.prepared,
        names=names,
        image_suffixes=[split.image_suffix.lower()],
        label_suffixes=[split.prepared_suffix.lower()],
        advice=advice,
    )


def _advice(preparation: str) -> str:
    return (
        f"{describe_data_root()} Put the download there and run "
        f"projects/ViTAdapter/tools/{preparation}, which lists what is missing."
    )
