"""The command line of the doctor."""

import argparse
from collections.abc import Sequence

from vit_adapter.doctor.checks import CHECKS
from vit_adapter.doctor.report import conclusion, is_fine, to_json, to_text
from vit_adapter.doctor.runner import run_checks
from vit_adapter.doctor.section import Options, Section

__all__ = ["main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vit_adapter.doctor",
        description="Find out what is installed and what works, and how to fix what does not.",
        epilog="exit status: 0 no fault found (perhaps warnings), 1 a fault found",
    )
    parser.add_argument(
        "--output",
        default=Options().output,
        metavar="FOLDER",
        help="folder of trainings, which has to be writable (default: %(default)s)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="leave out the speed check, which takes ten seconds"
    )
    parser.add_argument(
        "--json", action="store_true", help="print everything as JSON, for a bug report"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = build_parser().parse_args(argv)
    names = [name for name in CHECKS if not (args.quick and name == "speed")]
    sections: dict[str, Section] = {}
    for name, section in run_checks(names, Options(output=args.output)):
        sections[name] = section
        if not args.json:
            print(to_text(name, section), flush=True)
    print(to_json(sections) if args.json else conclusion(sections))
    return 0 if is_fine(sections) else 1
