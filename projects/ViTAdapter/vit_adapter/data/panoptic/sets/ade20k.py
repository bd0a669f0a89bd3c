"""ADE20K, 150 classes, of which 100 are things; names and order as in semantic segmentation.

Instances come in files of their own: red is the index of the thing, counted from 1, green the
number of the instance. Where they overlap with stuff, pixels belong to the instance. Pixels of
things without an instance have no label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vit_adapter.data.image_io import read_label_map, read_segment_ids
from vit_adapter.data.panoptic.sets.definition import PanopticSet, PanopticSplit
from vit_adapter.data.semantic.sets.ade20k import DATA_SET as _SEMANTIC
from vit_adapter.data.semantic.sets.label_set import read_label_set

_ROOT = Path("ADEChallengeData2016")
_INSTANCES = (
    "annotations_instance.tar of http://sceneparsing.csail.mit.edu/data/ChallengeData2017/"
    "annotations_instance.tar"
)
_LABEL_SET = read_label_set("ade20k")

# Class indices of the 100 things of the instance challenge, in the order of its labels
_THINGS = (
    *(7, 8, 10, 12, 14, 15, 18, 19, 20, 22, 23, 24, 27, 30, 31, 32, 33, 35, 36, 37, 38, 39, 41),
    *(42, 43, 44, 45, 47, 49, 50, 53, 55, 56, 57, 58, 62, 64, 65, 66, 67, 69, 70, 71, 72, 73, 74),
    *(75, 76, 78, 80, 81, 82, 83, 85, 86, 87, 88, 89, 90, 92, 93, 95, 97, 98, 102, 103, 104, 107),
    *(108, 110, 111, 112, 115, 116, 118, 119, 120, 121, 123, 124, 125, 126, 127, 129, 130, 132),
    *(133, 134, 135, 136, 137, 138, 139, 142, 143, 144, 146, 147, 148, 149),
)
_INSTANCES_PER_CLASS = 1000  # so that segment ids show their class


def read_segments(files: Sequence[Path]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Read the label file of the classes and the file of the instances of one image.

    Raises:
        ValueError: a file cannot be read, or has unknown values.
    """
    classes, colours = read_label_map(files[0]).astype(np.int64), read_segment_ids(files[1])
    things, numbers = colours % 256, colours // 256 % 256
    if classes.shape != things.shape or classes.max() > len(_LABEL_SET.names):
        raise ValueError(
            f"{files[0]} {classes.shape} with values up to {classes.max()} and {files[1]} "
            f"{things.shape} must have the same size (height, width), and classes up to "
            f"{len(_LABEL_SET.names)}."
        )
    is_instance = numbers > 0
    if (is_instance & ((things < 1) | (things > len(_THINGS)))).any():
        raise ValueError(
            f"{files[1]} has instances (green) whose class (red) is not from 1 to {len(_THINGS)}. "
            "Is it from another release, or was it edited?"
        )
    stuff = np.where(np.isin(classes - 1, _THINGS), 0, classes)
    label = np.array((0, *_THINGS)) + 1
    instances = _INSTANCES_PER_CLASS * label[np.where(is_instance, things, 0)] + numbers
    ids = np.where(is_instance, instances, stuff)
    found = np.unique(ids[ids > 0]).tolist()
    return ids, [
        {"id": i, "category_id": (i if i < _INSTANCES_PER_CLASS else i // _INSTANCES_PER_CLASS) - 1}
        for i in found
    ]


def _split(index: int, name: str) -> PanopticSplit:
    semantic = _SEMANTIC.splits[index]
    instances = replace(
        semantic,
        official=_ROOT / "annotations_instance" / semantic.title,
        label_origin=_INSTANCES,
    )
    return PanopticSplit(
        name=f"ade20k_panoptic_{name}",
        title=semantic.title,
        sources=(semantic, instances),
        maps=_ROOT / f"ade20k_panoptic_{name}",
        json_file=_ROOT / f"ade20k_panoptic_{name}.json",
    )


DATA_SET = PanopticSet(
    title="ADE20K (150 classes, 100 of them things)",
    layout="ADEChallengeData2016/{images,annotations,annotations_instance}/{training,validation}",
    splits=(_split(0, "train"), _split(1, "val")),
    categories=tuple(
        {"id": i, "name": name, "isthing": int(i in _THINGS), "color": list(color)}
        for i, (name, color) in enumerate(zip(_LABEL_SET.names, _LABEL_SET.colors, strict=True))
    ),
    read_segments=read_segments,
)
