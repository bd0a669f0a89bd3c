"""Run several command lines of ``train_net.py`` one after another in the same two CPU processes.

Called with a JSON list of command lines. They share the processes, because starting processes takes
most of the time of such a test.
"""

import json
import sys

from vit_adapter.engine.cli import build_parser
from vit_adapter.engine.processes import ProcessLayout, launch
from vit_adapter.engine.run import run


def run_all(commands: list[list[str]]) -> None:
    for command in commands:
        run(build_parser().parse_intermixed_args(command))


if __name__ == "__main__":
    layout = ProcessLayout(device_type="cpu", processes_per_machine=2)
    launch(run_all, layout, (json.loads(sys.argv[1]),))
