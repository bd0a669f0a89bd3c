"""The command line that all ``tools/prepare_*.py`` share."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils.logger import setup_logger

from vit_adapter.data.catalog import data_root
from vit_adapter.data.semantic.preparation.convert import convert_part
from vit_adapter.data.semantic.preparation.inspect import (
    PreparationError,
    find_problems,
    part_names,
)
from vit_adapter.data.semantic.preparation.sets import SETS

_logger = logging.getLogger("vit_adapter.prepare")


def run(name: str, arguments: Sequence[str] | None = None) -> int:
    """Prepare a data set as the command line says.

    Args:
        name: one of ``SETS``.
        arguments: of the command line; those of the program if None.

    Returns:
        The exit status: 0, or 1 if something is missing or broken, which is logged.
    """
    options = _build_parser(name).parse_args(arguments)
    setup_logger(name="vit_adapter")
    try:
        prepare(name, options.root, allow_subset=options.allow_subset, workers=options.workers)
    except (OSError, ValueError) as error:
        _logger.error("%s", error)
        return 1
    return 0


def prepare(name: str, root: Path, *, allow_subset: bool = False, workers: int = 1) -> None:
    """Check a download and write the label pictures that are not there yet.

    Args:
        name: one of ``SETS``.
        root: the data root.
        allow_subset: accept fewer images than the official data set has.
        workers: number of processes.

    Raises:
        PreparationError: listing all that is missing.
        ValueError: a label file is broken.
    """
    jobs = SETS[name].jobs(root.expanduser().absolute())
    problems = [line for part, _ in jobs for line in find_problems(part, allow_subset=allow_subset)]
    if problems:
        lines = "\n  ".join(dict.fromkeys(problems))
        raise PreparationError(
            f"{SETS[name].title} is incomplete in {root}:\n  {lines}\n"
            f"Expected below that folder: {SETS[name].layout}"
        )
    for part, conversion in jobs:
        names = part_names(part)
        written = convert_part(part, names, conversion, workers=workers)
        _logger.info(
            "%s: %d label pictures in %s, of which %d were there before",
            part.name,
            len(names),
            part.target,
            len(names) - written,
        )


def _build_parser(name: str) -> argparse.ArgumentParser:
    prepared = SETS[name]
    parser = argparse.ArgumentParser(
        description=f"Prepare {prepared.title} for training and evaluation: check the official "
        "download and write its labels as class indices. An interrupted run can be repeated.",
        epilog=f"Unpack the download first; expected below the data root: {prepared.layout}",
    )
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
        help="accept fewer images than the official data set has, each with its label file",
    )
    return parser
