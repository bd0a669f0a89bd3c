"""The arguments of every command that takes a config."""

import argparse

__all__ = ["add_config_arguments"]


def add_config_arguments(parser: argparse._ActionsContainer) -> None:
    """Add ``--config-file`` and trailing ``key=value`` overrides (``overrides``).

    ``parser`` is an argument parser or one of its argument groups. Parse the command line with
    ``parse_intermixed_args``, so that overrides can stand between options.
    """
    parser.add_argument(
        "--config-file",
        default="",
        metavar="CONFIG",
        help="config file, name in the model zoo, output folder of a training run, or portable "
        "folder",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="config overrides, such as train.device=cpu",
    )
