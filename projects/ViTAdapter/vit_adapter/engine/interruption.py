"""Ending a run when a signal asks for it: the step ends, a checkpoint is written, the run exits."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.checkpoint.run_files import checkpoint_name

__all__ = ["SIGNALS", "Interrupted", "StopOnSignal", "handling"]

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1) if os.name == "posix" else (signal.SIGTERM,)
"""The signals with which cluster systems announce the end of a job."""

_SAME_REQUEST = 5.0
"""Seconds in which a signal that arrives twice counts once: launchers pass on what the system has
already sent to every process."""


class Interrupted(SystemExit):
    """Ends a process with the status that shells give for the signal: 143 SIGTERM, 138 SIGUSR1.

    Args:
        number: of the signal.
        together: whether all processes of the run end at the same place.
    """

    def __init__(self, number: int, *, together: bool = False) -> None:
        super().__init__(128 + number)
        self.number = number
        self.together = together


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call ``handler`` for each of :data:`SIGNALS`; only the main thread of a process may do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


class StopOnSignal(HookBase):
    """Ends the training with a checkpoint after SIGTERM or SIGUSR1.

    All processes end after the same step, even if only one of them received the signal. They
    exchange what they received while the next step runs, so no step waits for it, and neither does
    the device.

    A second SIGTERM, at least five seconds after the first, ends the process at once.

    Args:
        checkpointer: writes the checkpoint, unless there is one of this step.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        self._checkpointer = checkpointer
        self._handling = handling(self._receive)
        self._received = 0  # number of the signal
        self._terminated = 0.0  # time of the first SIGTERM
        self._highest: torch.Tensor | None = None
        self._work: dist.Work | None = None

    def before_train(self) -> None:
        """Start to listen."""
        self._handling.__enter__()

    def after_step(self) -> None:
        """End the training if a process has received a signal.

        Raises:
            Interrupted: the checkpoint is written.
        """
        number = self._agree()
        if not number:
            return
        iteration = self.trainer.iter
        if comm.all_gather(self._checkpointer.saved_iteration != iteration)[0]:
            self._checkpointer.save(checkpoint_name(iteration), iteration=iteration)
        self._checkpointer.wait()
        comm.synchronize()  # launchers end all processes when the first one has ended
        logger.warning(
            "%s: training stops after iteration %d with exit status %d. Its last checkpoint is in "
            "%s; --resume continues from there.",
            signal.Signals(number).name,
            iteration,
            128 + number,
            self._checkpointer.save_dir,
        )
        raise Interrupted(number, together=True)

    def after_train(self) -> None:
        """Stop to listen."""
        self._handling.__exit__(None, None, None)
        if self._work is not None and not self.trainer.failed:
            self._work.wait()

    def stop_now(self) -> None:
        """End this process if it has received a signal, without waiting for the end of a step.

        Raises:
            Interrupted: it has.
        """
        if self._received:
            raise Interrupted(self._received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGTERM:
            if self._terminated and now - self._terminated > _SAME_REQUEST:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self._terminated = self._terminated or now
        self._received = self._received or number

    def _agree(self) -> int:
        """Return the signal that any process had received one step ago, 0 if there was none."""
        if comm.get_world_size() == 1:
            return self._received
        number = 0
        if self._work is not None:
            self._work.wait()
            number = int(self._highest)
        if not number:
            self._highest = torch.tensor(self._received)
            self._work = dist.all_reduce(
                self._highest,
                dist.ReduceOp.MAX,
                group=comm._get_global_gloo_group(),
                async_op=True,
            )
        return number
