"""Registers the public panoptic data sets under the names that configs use.

The data root is read when this package is imported, as Detectron2 does for its own paths. Files are
looked for when a data set is used.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from vit_adapter.data.catalog import data_root, register
from vit_adapter.data.instances.coco_file import read_coco_json
from vit_adapter.data.panoptic.records import class_metadata, load_records
from vit_adapter.data.panoptic.sets.definition import PanopticSet, PanopticSplit
from vit_adapter.data.panoptic.sets.table import SETS
from vit_adapter.data.semantic.sets.catalog import check_prepared


def register_panoptic_sets(root: str | os.PathLike[str] | None = None) -> None:
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
                MetadataCatalog.get(split.name).set(preparation=preparation)
                continue
            split = split.below(root)
            register(
                split.name,
                partial(_load, split, data_set),
                image_root=str(split.sources[0].images),
                panoptic_root=str(split.maps),
                panoptic_json=str(split.json_file),
                preparation=preparation,
                **class_metadata(data_set.categories),
            )


def _load(split: PanopticSplit, data_set: PanopticSet) -> list[dict[str, Any]]:
    check_prepared(split.name)
    content = read_coco_json(split.json_file)
    return load_records(content, data_set.categories, split.maps, split.sources[0].images)
