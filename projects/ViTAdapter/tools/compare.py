"""Compare two results on the same data: what differs, and what is noise.

    compare.py output/a output/b
    compare.py --a output/a_0 output/a_1 --b output/b_0 output/b_1

The results are output folders of evaluated runs, or files of predictions in COCO's format of
results together with ``--annotations``. With several runs (seeds) of each training, the intervals
also cover the spread of the runs. Exit status: 0, or 2 if the results cannot be compared.
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

from vit_adapter.comparison import compare, format_comparison, read_results
from vit_adapter.comparison.tables import describe_difference, to_json
from vit_adapter.config.errors import UsageError
from vit_adapter.utils.atomic import atomic_open
from vit_adapter.utils.command_line import reports_errors

logger = logging.getLogger("vit_adapter.compare")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Compare two results on the same data, with 95 %% intervals from resampled "
        "images. With several seeds of each training, the intervals also cover their spread.",
        epilog="exit status: 0, or 2 if the results cannot be compared",
    )
    add = parser.add_argument
    add(
        "pair",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="A and B, one run each: output folders of evaluated runs, or JSON files",
    )
    add("--a", nargs="+", type=Path, metavar="RUN", help="one or more runs of A")
    add("--b", nargs="+", type=Path, metavar="RUN", help="one or more runs of B")
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


def _sides(args: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """Return the runs of A and B."""
    if bool(args.pair) == bool(args.a or args.b) or bool(args.a) != bool(args.b):
        raise UsageError("give two results, A and B, or the runs of both: --a RUN ... --b RUN ...")
    if args.pair and len(args.pair) != 2:
        raise UsageError(
            f"{len(args.pair)} results given, expected two; for several runs give "
            "--a RUN ... --b RUN ..."
        )
    return ([args.pair[0]], [args.pair[1]]) if args.pair else (args.a, args.b)


def run(args: argparse.Namespace) -> None:
    """Compare, print the tables, and say what is noise.

    Raises:
        ValueError, OSError: the results cannot be compared; the message says why.
    """
    sides = _sides(args)
    results = [[read_results(path, args.annotations) for path in side] for side in sides]
    found = compare(*results, resamples=args.resamples, seed=args.seed)
    for name, side in zip("AB", sides, strict=True):
        print(f"{name}: {', '.join(map(str, side))}")
    print()
    for comparison in found:
        print(format_comparison(comparison) + "\n")
    for comparison in found:
        is_sure = comparison.verdict == "beyond images and runs"
        level = logging.INFO if is_sure else logging.WARNING
        logger.log(level, "%s", describe_difference(comparison))
    if args.json:
        with atomic_open(args.json) as stream:
            json.dump([to_json(comparison) for comparison in found], stream, indent=2)
            stream.write("\n")


@reports_errors(logger, OSError, ValueError)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    run(build_parser().parse_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
