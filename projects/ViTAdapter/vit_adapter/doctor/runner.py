"""Runs the checks in a process of their own, and starts a new one if it ends or hangs."""

import json
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from threading import Thread
from typing import IO

from vit_adapter.doctor import remedies
from vit_adapter.doctor.checks import CHECKS
from vit_adapter.doctor.section import Finding, Options, Section

__all__ = ["run_checks"]

_WORKER = [sys.executable, "-m", "vit_adapter.doctor.worker"]
_LAST_LINES = 40  # of a process that ended, kept for the report


def run_checks(names: Sequence[str], options: Options) -> Iterator[tuple[str, Section]]:
    """Yield the name and the result of each check as soon as it is done."""
    names = list(names)
    while names:
        worker = _Worker(names, options)
        try:
            while names:
                section = worker.next_section(CHECKS[names[0]].limit)
                yield names[0], section or worker.explain_end(names[0])
                del names[0]
                if section is None:
                    break
        finally:
            worker.kill()


class _Worker:
    """A process that runs checks.

    Args:
        names: the checks.
        options: of the command line.
    """

    def __init__(self, names: Sequence[str], options: Options) -> None:
        command = [*_WORKER, json.dumps(options._asdict()), *names]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
        self._sections: queue.Queue[Section | None] = queue.Queue()
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._limit = 0.0
        self._readers = [
            Thread(target=self._read_sections, args=(self._process.stdout,), daemon=True),
            Thread(target=self._read_errors, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def next_section(self, limit: float) -> Section | None:
        """Wait for the next result, at most ``limit`` seconds; None if there will be none."""
        self._limit = limit
        with suppress(queue.Empty):
            return self._sections.get(timeout=limit)
        return None

    def explain_end(self, name: str) -> Section:
        """Return the result of a check that this process did not complete."""
        hangs = self._process.poll() is None and self._readers[0].is_alive()
        self.kill()
        for reader in self._readers:
            reader.join(timeout=5)
        status = self._process.returncode
        what = f"The check did not end within {self._limit:.0f} seconds."
        if not hangs:
            ending = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
            what = f"The check ended its process ({ending})."
        fix = remedies.REPORT_IT
        if CHECKS[name].uses_kernels:
            what += " The extension vit_adapter._C may be damaged, or not fit this PyTorch."
            fix = remedies.rebuild()
        return Section({}, [Finding("fault", what, fix, "".join(self._last_lines))])

    def kill(self) -> None:
        """End the process if it still runs."""
        with suppress(OSError):
            self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # it may wait for a disk that does not answer
            self._process.wait(timeout=5)

    def _read_sections(self, stream: IO[str]) -> None:
        for line in stream:
            content = json.loads(line)
            findings = [Finding(**finding) for finding in content["findings"]]
            self._sections.put(Section(content["facts"], findings))
        self._process.wait()
        self._sections.put(None)

    def _read_errors(self, stream: IO[str]) -> None:
        self._last_lines.extend(stream)
