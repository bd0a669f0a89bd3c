"""The arguments of every command that takes a config."""

import argparse

__all__ = ["add_config_arguments"]


def add_config_arguments(parser: argparse._ActionsContainer) -> None:
    """Add ``--config-file`` and trailing ``key=value`` overrides (``overrides``).

    ``parser`` is an argument parser, or a group of arguments of one.

    Parse by ``parse_intermixed_args``, so that overrides may stand among the options.
    """
    parser.add_argument(
        "--config-file",
        default="",
        metavar="CONFIG",
        help="config file, name in the model zoo, or output folder of a training",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="overrides of the config, such as train.device=cpu",
    )
