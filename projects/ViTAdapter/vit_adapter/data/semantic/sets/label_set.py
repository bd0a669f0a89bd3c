"""The classes of a data set: names, colours, and the values that stand for them in the download.

Files beside this module hold one class a line: value in the official label pictures, name, RGB. The
order of the lines is that of the model's class indices. What the values are:

======================  ==========================================================================
``ade20k``              ADEChallengeData2016 annotations (0 is "other"); names as in Detectron2
``coco_stuff``          COCO-Stuff's ids: 80 things and 91 stuff classes out of 182. The 10K release
                        stores them as they are, the 164K pixel maps store id - 1
``pascal_context_59``   PASCAL-Context's label maps of 459 classes
``mapillary_vistas``    Mapillary Vistas 1.2; 65 is "unlabeled"
======================  ==========================================================================

Cityscapes is in Detectron2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES

IGNORE_LABEL = 255
"""Pixels of this label take no part in losses and metrics, in every data set of this project."""

# The Cityscapes class of each class of Mapillary Vistas that has one, as the original trains on
# Mapillary for Cityscapes.
_MAPILLARY_FOR_CITYSCAPES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "road": (13, 24, 41),  # road, general lane marking, manhole
        "sidewalk": (2, 15),  # curb, sidewalk
        "building": (17,),
        "wall": (6,),
        "fence": (3,),
        "pole": (45, 47),  # pole, utility pole
        "traffic light": (48,),
        "traffic sign": (50,),  # front
        "vegetation": (30,),
        "terrain": (29,),
        "sky": (27,),
        "person": (19,),
        "rider": (20, 21, 22),  # bicyclist, motorcyclist, other rider
        "car": (55,),
        "truck": (61,),
        "bus": (54,),
        "train": (58,),  # on rails
        "motorcycle": (57,),
        "bicycle": (52,),
    }
)


@dataclass(frozen=True)
class LabelSet:
    """The classes of a data set in the order of the model's class indices.

    Attributes:
        names: of the classes.
        colors: RGB, 0 to 255, to draw them with.
        values: for each class the values that mean it in the official label pictures.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    values: tuple[tuple[int, ...], ...]

    def lookup_table(self, size: int, *, offset: int = 0) -> np.ndarray:
        """Return the class index for every value of an official label picture.

        Args:
            size: number of possible values, 256 for 8 bits.
            offset: added to a stored value to get the official one.

        Returns:
            (size,) uint8; ``IGNORE_LABEL`` for values without a class.
        """
        table = np.full(size, IGNORE_LABEL, dtype=np.uint8)
        for index, values in enumerate(self.values):
            table[np.subtract(values, offset)] = index
        return table


@cache
def read_label_set(name: str) -> LabelSet:
    """Return the classes of a data set.

    Args:
        name: ``ade20k``, ``cityscapes``, ``coco_stuff``, ``pascal_context_59``,
            ``mapillary_vistas``, or ``mapillary_vistas_cityscapes`` for the 19 classes of
            Cityscapes in Mapillary Vistas.
    """
    if name.endswith("cityscapes"):
        names = tuple(category["name"] for category in CITYSCAPES_CATEGORIES)
        values = [(category["id"],) for category in CITYSCAPES_CATEGORIES]
        if name.startswith("mapillary"):
            values = [_MAPILLARY_FOR_CITYSCAPES[name] for name in names]
        colors = tuple(tuple(category["color"]) for category in CITYSCAPES_CATEGORIES)
        return LabelSet(names, colors, tuple(values))
    text = resources.files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    rows = json.loads(text)
    return LabelSet(
        names=tuple(label for _, label, _ in rows),
        colors=tuple(tuple(color) for _, _, color in rows),
        values=tuple((value,) for value, _, _ in rows),
    )
