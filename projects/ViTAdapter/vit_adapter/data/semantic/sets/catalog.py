"""Registers the data sets for semantic segmentation under the names that configs use.

Names, for ``<split>`` in ``train`` and ``val``, and where their files lie below the data root:

============================================  =====================================================
``ade20k_sem_seg_<split>``                    Detectron2's own: ``ADEChallengeData2016/``
``cityscapes_fine_sem_seg_<split>``           Detectron2's own: ``cityscapes/``
``coco_stuff_10k_{train,test}``               ``coco_stuff_10k/``
``coco_stuff_164k_<split>``                   ``coco/``, beside COCO's other annotations
``pascal_context_59_<split>``                 ``VOCdevkit/VOC2010/``
``mapillary_vistas_sem_seg_<split>``          ``mapillary_vistas/``, 65 classes
``mapillary_vistas_cityscapes_<split>``       the same images with the 19 classes of Cityscapes
============================================  =====================================================

The data root is ``$DETECTRON2_DATASETS``, or ``datasets`` in the working directory, as it is when
this package is imported: Detectron2 fixes its own paths then. Files are looked for when a data set
is used. ``tools/prepare_*.py`` make the label pictures; each name knows its tool.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog, get_detection_dataset_dicts

from vit_adapter.data.catalog import data_root, register
from vit_adapter.data.checks import check_registered
from vit_adapter.data.semantic.label_folders import find_label_pairs
from vit_adapter.data.semantic.sets.label_set import IGNORE_LABEL, read_label_set

_PREPARED = "_detectron2"  # ending of folders that the tools write, as in Detectron2


@dataclass(frozen=True)
class _Split:
    """One name in the catalogs; paths are relative to the data root."""

    name: str
    label_set: str
    images: str
    labels: str
    tool: str
    names_file: str | None = None  # a name of an image a line; None: all images of the folder


def _coco_stuff_10k(split: str) -> _Split:
    root = "coco_stuff_10k"
    return _Split(
        name=f"coco_stuff_10k_{split}",
        label_set="coco_stuff",
        images=f"{root}/images",
        labels=f"{root}/annotations{_PREPARED}",
        tool="prepare_coco_stuff_10k.py",
        names_file=f"{root}/imageLists/{split}.txt",
    )


def _coco_stuff_164k(split: str) -> _Split:
    return _Split(
        name=f"coco_stuff_164k_{split}",
        label_set="coco_stuff",
        images=f"coco/{split}2017",
        labels=f"coco/stuffthingmaps{_PREPARED}/{split}2017",
        tool="prepare_coco_stuff_164k.py",
    )


def _pascal_context(split: str) -> _Split:
    root = "VOCdevkit/VOC2010"
    return _Split(
        name=f"pascal_context_59_{split}",
        label_set="pascal_context_59",
        images=f"{root}/JPEGImages",
        labels=f"{root}/context_59{_PREPARED}",
        tool="prepare_pascal_context.py",
        names_file=f"{root}/ImageSets/Main/{split}.txt",
    )


def _mapillary(split: str, task: str) -> _Split:
    folder = {"train": "mapillary_vistas/training", "val": "mapillary_vistas/validation"}[split]
    suffix = {"sem_seg": "", "cityscapes": "_cityscapes"}[task]
    return _Split(
        name=f"mapillary_vistas_{task}_{split}",
        label_set=f"mapillary_vistas{suffix}",
        images=f"{folder}/images",
        labels=f"{folder}/labels{suffix}{_PREPARED}",
        tool="prepare_mapillary.py",
    )


_SPLITS = (
    *map(_coco_stuff_10k, ("train", "test")),
    *map(_coco_stuff_164k, ("train", "val")),
    *map(_pascal_context, ("train", "val")),
    *(_mapillary(split, task) for task in ("sem_seg", "cityscapes") for split in ("train", "val")),
)


def register_semantic_sets(root: str | os.PathLike[str] | None = None) -> None:
    """Register the names that this module lists, and complete Detectron2's two.

    Registering again points the names at the new root; Detectron2's two stay where they are.

    Args:
        root: the data root, ``data_root()`` if None.
    """
    root = data_root() if root is None else Path(root).expanduser().absolute()
    for split in _SPLITS:
        _register(split, root)
    for name in ("train", "val"):
        ade20k = MetadataCatalog.get(f"ade20k_sem_seg_{name}")
        ade20k.set(
            stuff_colors=list(read_label_set("ade20k").colors), preparation="prepare_ade20k.py"
        )
        cityscapes = MetadataCatalog.get(f"cityscapes_fine_sem_seg_{name}")
        cityscapes.set(
            stuff_colors=list(read_label_set("cityscapes").colors),
            preparation="prepare_cityscapes.py",
        )


def check_prepared(dataset_name: str) -> None:
    """Check that a data set is there and prepared, if it is one of this module's.

    Raises:
        ValueError: no data set has that name.
        FileNotFoundError: naming what is missing, the data root and the tool that prepares it.
    """
    check_registered(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("preparation") is None:
        return
    folders = [metadata.get(key) for key in ("image_root", "sem_seg_root", "image_dir", "gt_dir")]
    for folder in filter(None, folders):
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"The data set {dataset_name!r} needs the folder {os.path.abspath(folder)}, which "
                f"does not exist. {_advice(metadata.preparation)}"
            )
    gt_dir = metadata.get("gt_dir")  # of Cityscapes, whose prepared labels lie beside the others
    if gt_dir and not any(Path(gt_dir).glob("*/*_labelTrainIds.png")):
        raise FileNotFoundError(
            f"The data set {dataset_name!r} has no files */*_labelTrainIds.png in "
            f"{os.path.abspath(gt_dir)}. {_advice(metadata.preparation)}"
        )


def semantic_dataset_dicts(names: str | Sequence[str]) -> list[dict[str, Any]]:
    """Return the records of one or more data sets, as ``dataset`` of Detectron2's data loaders.

    Args:
        names: in Detectron2's catalogs; of several data sets the records are joined.

    Raises:
        ValueError: no data set has that name, or its files are incomplete.
        FileNotFoundError: see :func:`check_prepared`.
    """
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        check_prepared(name)
    return get_detection_dataset_dicts(names, filter_empty=False)


def _register(split: _Split, root: Path) -> None:
    label_set = read_label_set(split.label_set)
    register(
        split.name,
        partial(_load, split, root),
        image_root=str(root / split.images),
        sem_seg_root=str(root / split.labels),
        evaluator_type="sem_seg",
        ignore_label=IGNORE_LABEL,
        stuff_classes=list(label_set.names),
        stuff_colors=list(label_set.colors),
        preparation=split.tool,
    )


def _load(split: _Split, root: Path) -> list[dict[str, str]]:
    check_prepared(split.name)
    names = None
    if split.names_file is not None:
        names_file = root / split.names_file
        if not names_file.is_file():
            raise FileNotFoundError(
                f"The data set {split.name!r} needs {names_file}, a list of its images, which does "
                f"not exist. {_advice(split.tool)}"
            )
        names = names_file.read_text(encoding="utf-8").split()
    return find_label_pairs(
        root / split.images, root / split.labels, names=names, advice=_advice(split.tool)
    )


def _advice(tool: str) -> str:
    return (
        "The environment variable DETECTRON2_DATASETS names the folder that holds all data sets, "
        f"./datasets by default (now: {data_root()}); put the download there and run "
        f"projects/ViTAdapter/tools/{tool}, which says what is missing."
    )
