"""The command line of ``tools/prepare_dataset.py``."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils.logger import setup_logger

from vit_adapter.data.catalog import data_root
from vit_adapter.data.semantic.preparation.convert import convert_split
from vit_adapter.data.semantic.preparation.inspect import (
    PreparationError,
    find_problems,
    split_names,
)
from vit_adapter.data.semantic.sets.table import SETS

_logger = logging.getLogger("vit_adapter.prepare")


def run(arguments: Sequence[str] | None = None) -> int:
    """Prepare a data set as the command line says.

    Args:
        arguments: command line arguments; those of this process if None.

    Returns:
        The exit status: 0, or 1 if something is missing or broken; the problem is logged.
    """
    options = _build_parser().parse_args(arguments)
    setup_logger(name="vit_adapter")
    try:
        prepare(
            options.name, options.root, allow_subset=options.allow_subset, workers=options.workers
        )
    except (OSError, ValueError) as error:
        _logger.error("%s", error)
        return 1
    return 0


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
    problems = [p for split in splits for p in find_problems(split, allow_subset=allow_subset)]
    if problems:
        lines = "\n  ".join(dict.fromkeys(problems))
        raise PreparationError(
            f"{data_set.title} is incomplete in {root}:\n  {lines}\n"
            f"Expected below that folder: {data_set.layout}"
        )
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


def _build_parser() -> argparse.ArgumentParser:
    width = max(map(len, SETS)) + 2
    layouts = "\n".join(
        f"  {name:{width}}{data_set.title}\n  {'':{width}}{data_set.layout}"
        for name, data_set in SETS.items()
    )
    parser = argparse.ArgumentParser(
        description="Prepare a public data set for training and evaluation: check the official\n"
        "download and write its labels as class indices. An interrupted run can be repeated.",
        epilog=f"Unpack the download first. Expected in the folder of all data sets:\n{layouts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=SETS, metavar="NAME", help="data set, see below")
    parser.add_argument(
        "--root",
        type=Path,
        default=data_root(),
        help="folder of all data sets (default: $DETECTRON2_DATASETS, or ./datasets: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="number of processes (default: one per core, %(default)s)",
    )
    parser.add_argument(
        "--allow-subset",
        action="store_true",
        help="accept fewer images than in the official data set; each needs its label file",
    )
    return parser
