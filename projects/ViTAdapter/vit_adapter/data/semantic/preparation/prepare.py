"""Prepares the download of a public data set for semantic segmentation."""

from __future__ import annotations

import logging
from pathlib import Path

from vit_adapter.data.semantic.preparation.convert import convert_split
from vit_adapter.data.semantic.preparation.inspect import check_download, split_names
from vit_adapter.data.semantic.sets.table import SETS

_logger = logging.getLogger("vit_adapter.prepare")


def prepare(name: str, root: Path, *, allow_subset: bool = False, workers: int = 1) -> None:
    """Check a download and write the label maps that do not exist yet.

    Args:
        name: one of ``SETS``.
        root: the data root.
        allow_subset: accept fewer images than the official data set has.
        workers: number of processes.

    Raises:
        PreparationError: the download is incomplete; the message lists everything that is missing.
        ValueError: a label file is broken.
    """
    data_set = SETS[name]
    folder = root.expanduser().absolute()
    splits = [split.below(folder) for split in data_set.splits]
    described = dict(title=data_set.title, layout=data_set.layout)
    check_download(splits, root, **described, allow_subset=allow_subset)
    for split in splits:
        names = split_names(split)
        written = convert_split(split, names, workers=workers)
        _logger.info(
            "%s: %d label maps in %s, %d of them from earlier",
            split.title,
            len(names),
            split.prepared,
            len(names) - written,
        )
