"""Prepares the download of a public panoptic data set."""

from __future__ import annotations

import logging
from pathlib import Path

from vit_adapter.data.panoptic.preparation.convert import convert_split
from vit_adapter.data.panoptic.sets.table import SETS
from vit_adapter.data.semantic import preparation as semantic
from vit_adapter.data.semantic.preparation.inspect import (
    PreparationError,
    check_download,
    split_names,
)

_logger = logging.getLogger("vit_adapter.prepare")


def prepare(name: str, root: Path, *, allow_subset: bool = False, workers: int = 1) -> None:
    """Check a download, and write segment maps and annotation files that do not exist yet.

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
    splits = [split.below(root.expanduser().absolute()) for split in data_set.splits]
    sources = [source for split in splits for source in split.sources]
    described = dict(title=data_set.title, layout=data_set.layout)
    check_download(sources, root, **described, allow_subset=allow_subset)
    if data_set.semantic_set is not None:
        semantic.prepare(data_set.semantic_set, root, allow_subset=allow_subset, workers=workers)
    for split in splits:
        if data_set.read_segments is None:
            if not split.json_file.is_file():
                raise PreparationError(
                    f"{data_set.title}: {split.json_file} does not exist; it comes with "
                    f"{split.sources[0].label_origin}."
                )
            _logger.info("%s: complete, nothing to convert", split.title)
            continue
        names = split_names(split.sources[0])
        written = convert_split(split, data_set, names, workers=workers)
        state = "written" if written else "there from earlier"
        _logger.info("%s: %d segment maps in %s, %s", split.title, len(names), split.maps, state)
