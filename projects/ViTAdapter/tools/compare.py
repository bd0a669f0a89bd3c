"""Compare two results on the same data: what differs, and what is noise.

    compare.py output/a output/b

The results are output folders of evaluated runs, or files of predictions in COCO's format of
results together with ``--annotations``. Exit status: 0, or 2 if they cannot be compared.
"""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

# fvcore triggers this warning when it is imported; users can do nothing about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

# ruff: noqa: E402
from detectron2.utils.logger import setup_logger

from vit_adapter.comparison import compare, format_comparison, read_results
from vit_adapter.comparison.tables import describe_difference, to_json
from vit_adapter.utils.atomic import atomic_open

logger = logging.getLogger("vit_adapter.compare")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Compare two results on the same data, with 95 %% intervals from resampled "
        "images.",
        epilog="exit status: 0, or 2 if the results cannot be compared",
    )
    add = parser.add_argument
    add("first", type=Path, metavar="A", help="output folder of an evaluated run, or a JSON file")
    add("second", type=Path, metavar="B", help="the result that is compared with A")
    add(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO file with the objects (default: the test data of the folders' configs)",
    )
    add("--resamples", type=_positive, default=1000, help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the resamples (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="also write all numbers to this file")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def run(args: argparse.Namespace) -> None:
    """Compare, print the tables, and say what is noise.

    Raises:
        ValueError, OSError: the results cannot be compared; the message says why.
    """
    results = [read_results(path, args.annotations) for path in (args.first, args.second)]
    found = compare(*results, resamples=args.resamples, seed=args.seed)
    print(f"A: {args.first}\nB: {args.second}\n")
    for comparison in found:
        print(format_comparison(comparison) + "\n")
    for comparison in found:
        level = logging.WARNING if comparison.metrics[comparison.main].is_noise else logging.INFO
        logger.log(level, "%s", describe_difference(comparison))
    if args.json:
        with atomic_open(args.json) as stream:
            json.dump([to_json(comparison) for comparison in found], stream, indent=2)
            stream.write("\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = build_parser().parse_args(argv)
    setup_logger(name="vit_adapter")
    try:
        run(args)
    except (OSError, ValueError) as error:
        logger.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
