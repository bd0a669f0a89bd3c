"""What a dry run finds: sections with values, problems, warnings; on the terminal and as JSON."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tabulate import tabulate

from vit_adapter.utils.atomic import atomic_open

__all__ = ["PICTURE", "REPORT", "Report", "collect_warnings", "in_words"]

REPORT = "dry_run.json"
PICTURE = "dry_run.jpg"

_LOGGERS = ("vit_adapter", "detectron2", "fvcore")


class Report:
    """Collects the results of a dry run, and prints each section as soon as it is complete.

    Attributes:
        problems: what a run would fail on, or would learn wrongly from.
        warnings: what may be intended.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._sections: dict[str, object] = {}

    @property
    def is_ready(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def add_section(
        self,
        key: str | Sequence[str],
        title: str,
        values: Mapping[str, object],
        rows: Sequence[tuple[str, str]],
    ) -> None:
        """Add a section.

        Args:
            key: its name in the file, or its path in nested objects.
            title: its heading on the terminal.
            values: its content in the file.
            rows: its lines on the terminal: a name and a text.
        """
        node: Any = self._sections
        *parents, last = [key] if isinstance(key, str) else key
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = dict(values)
        table = tabulate(rows, tablefmt="plain", disable_numparse=True)
        print(f"\n{title}", *(f"  {line}" for line in table.splitlines()), sep="\n", flush=True)

    def print_end(self) -> None:
        """Print the problems, the warnings and the conclusion."""
        for title, texts in (("Problems", self.problems), ("Warnings", self.warnings)):
            if texts:
                print(f"\n{title}", *(f"- {text}" for text in texts), sep="\n")
        count = len(self.problems)
        found = f"Not ready to train: {count} problem{'s' if count > 1 else ''} found."
        ending = "Ready to train." if self.is_ready else found
        print(f"\n{ending}", flush=True)

    def content(self) -> dict[str, object]:
        """Return what :meth:`write` stores."""
        return {
            "ready": self.is_ready,
            "problems": self.problems,
            "warnings": self.warnings,
            **self._sections,
        }

    def write(self, folder: Path) -> Path:
        """Write the report to ``dry_run.json`` in a folder, which exists, and return its path.

        Raises:
            OSError: the file cannot be written.
        """
        with atomic_open(folder / REPORT) as stream:
            json.dump(self.content(), stream, indent=2, ensure_ascii=False)
            stream.write("\n")
        return folder / REPORT


@contextmanager
def collect_warnings(report: Report) -> Iterator[None]:
    """Add what is logged as a warning in the ``with`` block to a report instead of printing it."""
    handler = _Collector(report)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def in_words(num_bytes: float) -> str:
    """Return a number of bytes as text, in MiB or GiB."""
    unit, size = ("GiB", 2**30) if num_bytes >= 2**30 else ("MiB", 2**20)
    return f"{num_bytes / size:,.1f} {unit}"


class _Collector(logging.Handler):
    """Adds each message once to the warnings of a report."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        """Add the message of a record."""
        text = record.getMessage()
        if text not in self._report.warnings:
            self._report.warnings.append(text)
