"""The process in which the checks run, so that a crash or a hang ends neither doctor nor report.

    python -m vit_adapter.doctor.worker OPTIONS CHECK...

It writes one line of JSON to its standard output after each check. What libraries print goes to the
standard error.
"""

import faulthandler
import json
import os
import sys
import warnings
from dataclasses import asdict

from vit_adapter.doctor.checks import CHECKS, run_check
from vit_adapter.doctor.section import Options


def main(arguments: list[str]) -> None:
    """Run the named checks."""
    options, *names = arguments
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.enable()
    warnings.simplefilter("ignore")
    for name in names:
        # Shows where a check hangs, before the other process ends this one.
        faulthandler.dump_traceback_later(0.9 * CHECKS[name].limit)
        section = run_check(name, Options(**json.loads(options)))
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(asdict(section), default=str), file=results, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
