"""The description of a public data set, used to register and to prepare it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vit_adapter.data.semantic.sets.label_set import LabelSet


@dataclass(frozen=True)
class Conversion:
    """The meaning of the values in official label files.

    Attributes:
        table: (number of values,) uint8: class index of each value, 255 for values without a class.
        valid: the values in official files; any other is an error.
        mat_key: variable of MATLAB files that holds the labels; None for images.
    """

    table: np.ndarray
    valid: frozenset[int]
    mat_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class Split:
    """One registered name. The name of a file is its path below its folder without the suffix.

    Attributes:
        name: name in Detectron2's catalogs, such as "ade20k_sem_seg_val".
        title: for messages, such as "validation".
        label_set: its classes.
        conversion: the meaning of the official label files.
        images: folder of the images, relative to the data root like the next four.
        official: folder of the official label files.
        other_official: folder that is read instead if it exists.
        prepared: folder of the prepared labels, PNG files of class indices.
        names_file: text file with one name per line; None if all images of the folder belong to it.
        count: official number of images.
        image_origin: archive and official site of the images and of ``names_file``, for messages.
        label_origin: archive and official site of the labels, for messages.
        image_suffix: suffix of the images' file names.
        official_suffix: suffix of the official label files' names.
        prepared_suffix: suffix of the prepared labels' file names.
    """

    name: str
    title: str
    label_set: LabelSet
    conversion: Conversion
    images: Path
    official: Path
    other_official: Path | None = None
    prepared: Path
    names_file: Path | None = None
    count: int
    image_origin: str
    label_origin: str
    image_suffix: str = ".jpg"
    official_suffix: str = ".png"
    prepared_suffix: str = ".png"

    def below(self, root: Path) -> Split:
        """Return this split with all paths below a data root."""
        official = root / self.official
        if self.other_official is not None and (root / self.other_official).is_dir():
            official = root / self.other_official
        return replace(
            self,
            images=root / self.images,
            official=official,
            other_official=None,
            prepared=root / self.prepared,
            names_file=None if self.names_file is None else root / self.names_file,
        )

    def listed_names(self) -> list[str]:
        """Read the names in ``names_file``; empty lines and spaces around a name do not count."""
        lines = self.names_file.read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip()]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A public data set for semantic segmentation.

    Attributes:
        title: name and number of classes.
        layout: the folders that must exist below the data root, for ``--help``.
        splits: the registered names, in the order of preparation.
        in_detectron2: whether Detectron2 registers the names itself. The paths of the splits are
            then Detectron2's, and only the colours and the preparation command are added.
    """

    title: str
    layout: str
    splits: tuple[Split, ...]
    in_detectron2: bool = False
