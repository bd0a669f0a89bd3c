"""Run several command lines of ``train_net.py`` one after another in the same two processes."""

from vit_adapter.engine.cli import build_parser
from vit_adapter.engine.run import run


def work(commands: list[list[str]]) -> None:
    for command in commands:
        run(build_parser().parse_intermixed_args(command))
