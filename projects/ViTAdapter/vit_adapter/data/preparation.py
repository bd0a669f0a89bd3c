"""The command line of ``tools/prepare_dataset.py``."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.utils.logger import setup_logger

from vit_adapter.data.catalog import data_root
from vit_adapter.data.panoptic import preparation as panoptic
from vit_adapter.data.panoptic.sets.table import SETS as PANOPTIC_SETS
from vit_adapter.data.semantic import preparation as semantic
from vit_adapter.data.semantic.sets.table import SETS as SEMANTIC_SETS

_logger = logging.getLogger("vit_adapter.prepare")

_TITLES = {name: data_set.title for name, data_set in SEMANTIC_SETS.items()} | {
    name: f"{data_set.title}, panoptic" for name, data_set in PANOPTIC_SETS.items()
}


def run(arguments: Sequence[str] | None = None) -> int:
    """Prepare a data set as the command line says.

    Args:
        arguments: command line arguments; those of this process if None.

    Returns:
        The exit status: 0, or 1 if something is missing or broken; the problem is logged.
    """
    options = _build_parser().parse_args(arguments)
    setup_logger(name="vit_adapter")
    room = semantic if options.name in SEMANTIC_SETS else panoptic
    try:
        room.prepare(
            options.name, options.root, allow_subset=options.allow_subset, workers=options.workers
        )
    except (OSError, ValueError) as error:
        _logger.error("%s", error)
        return 1
    return 0


def _build_parser() -> argparse.ArgumentParser:
    sets: dict[str, Any] = {**SEMANTIC_SETS, **PANOPTIC_SETS}
    width = max(map(len, sets)) + 2
    layouts = "\n".join(
        f"  {name:{width}}{_TITLES[name]}\n  {'':{width}}{data_set.layout}"
        for name, data_set in sets.items()
    )
    parser = argparse.ArgumentParser(
        description="Prepare a public data set for training and evaluation: check the official\n"
        "download and convert its labels. An interrupted run can be repeated.",
        epilog=f"Unpack the download first. Expected in the folder of all data sets:\n{layouts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=sets, metavar="NAME", help="data set, see below")
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
