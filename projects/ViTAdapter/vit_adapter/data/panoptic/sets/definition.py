"""The description of a public panoptic data set, used to register and to prepare it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vit_adapter.data.semantic.sets.definition import Split

ReadSegments = Callable[[Sequence[Path]], tuple[np.ndarray, list[dict[str, Any]]]]
"""Reads the label files of one image.

Returns segment ids (H, W), 0 for none, and for each segment a dict with its ``id``, its
``category_id`` and perhaps ``iscrowd``.
"""


@dataclass(frozen=True, kw_only=True)
class PanopticSplit:
    """One registered name.

    Attributes:
        name: name in Detectron2's catalogs, such as "ade20k_panoptic_val".
        title: for messages, such as "validation".
        sources: what the download must hold: the images, with one kind of label files each. Only
            the fields that describe official files are used.
        maps: folder of the segment maps, relative to the data root like the next one.
        json_file: panoptic annotations.
        map_suffix: what follows an image's name in the name of its segment map.
    """

    name: str
    title: str
    sources: tuple[Split, ...]
    maps: Path
    json_file: Path
    map_suffix: str = ".png"

    def below(self, root: Path) -> PanopticSplit:
        """Return this split with all paths below a data root."""
        return replace(
            self,
            sources=tuple(source.below(root) for source in self.sources),
            maps=root / self.maps,
            json_file=root / self.json_file,
        )


@dataclass(frozen=True, kw_only=True)
class PanopticSet:
    """A public data set for panoptic segmentation.

    Attributes:
        title: name and numbers of classes.
        layout: the folders that must exist below the data root, for ``--help``.
        splits: the registered names, in the order of preparation.
        categories: ``id``, ``name``, ``isthing`` and ``color`` of each class, in the order of the
            model's class indices.
        read_segments: how official label files are read; None if they are in COCO's format.
        semantic_set: a data set for semantic segmentation that is prepared first, because
            Detectron2 asks for its label maps, too.
        in_detectron2: whether Detectron2 registers the names itself. The paths of the splits are
            then Detectron2's, and only the preparation command is added.
    """

    title: str
    layout: str
    splits: tuple[PanopticSplit, ...]
    categories: tuple[dict[str, Any], ...] = ()
    read_segments: ReadSegments | None = None
    semantic_set: str | None = None
    in_detectron2: bool = False
