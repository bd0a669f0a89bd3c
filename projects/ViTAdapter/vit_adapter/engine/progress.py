"""A progress bar with the time left, on a terminal."""

import logging
import sys
from contextlib import ExitStack

from detectron2.engine import HookBase
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vit_adapter.engine.setup import LOGGERS

__all__ = ["ProgressBar"]


class ProgressBar(HookBase):
    """Shows the number of iterations and the time left below the log, if stderr is a terminal.

    Lines of the log appear above the bar. It is hidden while hooks act after a step, because an
    evaluation prints, and is gone when training ends. The time left follows from the mean speed of
    this run, with its evaluations. Put this hook before those that print.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._redirected = ExitStack()

    def before_train(self) -> None:
        """Make the bar, hidden until the first step."""
        self._bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            desc="Training",
            unit="it",
            file=sys.stderr,
            disable=None,  # unless the file is a terminal
            dynamic_ncols=True,
            leave=False,
            smoothing=0,
            miniters=1,  # otherwise a thread of tqdm may show the bar while it is hidden
        )
        self._bar.clear()

    def before_step(self) -> None:
        """Show the bar, and the log above it."""
        self._bar.refresh()
        if not self._bar.disable:
            loggers = [logging.getLogger(name) for name in LOGGERS]
            self._redirected.enter_context(logging_redirect_tqdm(loggers))

    def after_step(self) -> None:
        """Count the iteration, and hide the bar."""
        self._redirected.close()  # or a line of the log would show the bar again
        self._bar.update()
        self._bar.clear()

    def after_train(self) -> None:
        """Remove the bar."""
        self._redirected.close()
        if self._bar is not None:
            self._bar.close()
