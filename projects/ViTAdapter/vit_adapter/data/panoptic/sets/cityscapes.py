"""Cityscapes: 19 classes, of which 8 are things, in Detectron2's order.

The official file of instances has the id of a class, or 1000 times this id plus the number of an
instance. Things without a number are crowds. The result is that of the official script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

from vit_adapter.data.image_io import read_label_map
from vit_adapter.data.panoptic.sets.definition import PanopticSet, PanopticSplit
from vit_adapter.data.semantic.sets.cityscapes import DATA_SET as _SEMANTIC

_IS_THING = {category["id"]: bool(category["isthing"]) for category in CITYSCAPES_CATEGORIES}
_INSTANCES_PER_CLASS = 1000


def read_segments(files: Sequence[Path]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Read the file of instances of one image; classes that are not evaluated have no label.

    Raises:
        ValueError: the file cannot be read.
    """
    ids = read_label_map(files[0]).astype(np.int64)
    segments = []
    for i in np.unique(ids).tolist():
        label = i // _INSTANCES_PER_CLASS if i >= _INSTANCES_PER_CLASS else i
        if label in _IS_THING:
            is_crowd = i == label and _IS_THING[label]
            segments.append({"id": i, "category_id": label, "iscrowd": int(is_crowd)})
    return np.where(np.isin(ids, [segment["id"] for segment in segments]), ids, 0), segments


def _split(index: int) -> PanopticSplit:
    semantic = _SEMANTIC.splits[index]
    folder = f"cityscapes_panoptic_{semantic.title}"
    return PanopticSplit(
        name=f"cityscapes_fine_panoptic_{semantic.title}",
        title=semantic.title,
        sources=(replace(semantic, official_suffix="_gtFine_instanceIds.png"),),
        maps=Path("cityscapes/gtFine") / folder,
        json_file=Path("cityscapes/gtFine") / f"{folder}.json",
        map_suffix="_gtFine_panoptic.png",
    )


DATA_SET = PanopticSet(
    title="Cityscapes (19 classes, 8 of them things)",
    layout=_SEMANTIC.layout,
    splits=(_split(0), _split(1)),
    categories=tuple(
        {key: category[key] for key in ("id", "name", "isthing", "color")}
        for category in CITYSCAPES_CATEGORIES
    ),
    read_segments=read_segments,
    semantic_set="cityscapes",
    in_detectron2=True,
)
