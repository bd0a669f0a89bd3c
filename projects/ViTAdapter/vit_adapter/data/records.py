"""The records of a data set in compact storage, and the orientation of their images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from detectron2.data import DatasetFromList
from torch.utils.data import Dataset


class Records(DatasetFromList):
    """A list of records in Detectron2's format, which data workers share without copying it.

    Attributes:
        landscape: see :func:`find_landscape`. It is kept here, because reading all records again
            takes seconds. Records without a size do not have this attribute.
    """

    def __init__(self, records: list[Mapping[str, Any]]) -> None:
        with suppress(KeyError):
            self.landscape = _compare(records)
        super().__init__(records, copy=False)


def find_landscape(dataset: Dataset) -> np.ndarray:
    """Return for each record whether its image is wider than high, as a bool array.

    Raises:
        ValueError: a record has no "width" or no "height".
    """
    found = getattr(dataset, "landscape", None)
    if found is not None:
        return found
    try:
        return _compare(dataset[index] for index in range(len(dataset)))
    except KeyError as error:
        raise ValueError(
            "aspect_ratio_grouping needs the width and the height of each image, but a record of "
            f"the data set has no {error}. Add both to the records, or give "
            "aspect_ratio_grouping=False."
        ) from error


def _compare(records: Iterable[Mapping[str, Any]]) -> np.ndarray:
    return np.fromiter((record["width"] > record["height"] for record in records), bool)
