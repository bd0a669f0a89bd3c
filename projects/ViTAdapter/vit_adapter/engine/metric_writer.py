"""Writing metrics to files, without which a training can go on."""

import logging
from collections.abc import Callable

from detectron2.engine import hooks

__all__ = ["PeriodicWriter"]

logger = logging.getLogger(__name__)


class PeriodicWriter(hooks.PeriodicWriter):
    """Detectron2's hook, which in addition survives a full disk or a folder that cannot be written.

    The metrics of that time may be missing in the files. The log says so, once per writer and
    cause, and a training that has taken days goes on.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._reported: set[tuple[object, int | None]] = set()

    def after_step(self) -> None:
        """Write if it is time."""
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                self._attempt(writer, writer.write)

    def after_train(self) -> None:
        """Write what is new, and close the files."""
        for writer in self._writers:
            self._attempt(writer, writer.write)
            self._attempt(writer, writer.close)

    def _attempt(self, writer: object, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            if (writer, error.errno) not in self._reported:
                self._reported.add((writer, error.errno))
                logger.error(
                    "%s cannot write metrics: %s. Training goes on without them; make space in "
                    "train.output_dir, or make it writable.",
                    type(writer).__name__,
                    error,
                )
