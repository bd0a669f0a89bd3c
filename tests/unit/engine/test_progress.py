"""The progress bar, on a terminal that is emulated."""

import io
import logging
import re
import sys

import pytest
from detectron2.engine import HookBase, TrainerBase

from vit_adapter.engine.progress import ProgressBar

LINE = "a line of the log"
LINES = [LINE, "an evaluation", "a table of the evaluation"]  # of each step


class Terminal(io.StringIO):
    """Everything that is written to it, and the lines that a user sees."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal

    def lines(self) -> list[str]:
        seen = []
        for text in self.getvalue().split("\n"):
            line = ""
            for part in text.split("\r"):  # each starts at the left and overwrites
                line = part + line[len(part) :]
            seen.append(line.rstrip())
        return seen


class Loop(TrainerBase):
    """Logs and prints in the middle of steps and in hooks."""

    def run_step(self) -> None:
        logging.getLogger("vit_adapter.test").info(LINE)
        if self.iter == 5:
            raise KeyboardInterrupt


class Printer(HookBase):
    def before_train(self) -> None:
        print("before training")

    def after_step(self) -> None:
        logging.getLogger("vit_adapter.test").info("an evaluation")
        print("a table of the evaluation")


def run(
    monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool, start: int = 0, stop: int = 4
) -> Terminal:
    terminal = Terminal(is_terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    logger, handler = logging.getLogger("vit_adapter"), logging.StreamHandler(terminal)
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "level", logging.INFO)
    loop = Loop()
    loop.register_hooks([ProgressBar(), Printer()])
    try:
        loop.train(start, stop)
    except KeyboardInterrupt:
        pass
    assert logger.handlers == [handler]
    return terminal


def test_bar_and_lines_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = run(monkeypatch, is_terminal=True)
    assert terminal.lines() == ["before training", *LINES * 4, ""]
    assert re.search(r"Training:  75%.* 3/4 \[\d\d:\d\d<\d\d:\d\d", terminal.getvalue())


def test_a_resumed_run_continues_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert " 2/4 [" in run(monkeypatch, is_terminal=True, start=2).getvalue()


def test_only_lines_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = run(monkeypatch, is_terminal=False)
    assert terminal.getvalue().splitlines() == ["before training", *LINES * 4]


def test_the_bar_is_removed_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = run(monkeypatch, is_terminal=True, stop=9)
    assert terminal.lines()[-1] == ""
