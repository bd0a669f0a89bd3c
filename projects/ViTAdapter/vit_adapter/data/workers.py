"""Processes that read training data: what each is doing, and errors that say so."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.sharedctypes import RawArray
from multiprocessing.util import Finalize
from typing import Any, TypeVar

import numpy as np
from detectron2.utils import comm
from torch.utils.data import DataLoader, get_worker_info

__all__ = [
    "DataWorkerError",
    "WorkerBoard",
    "explained_worker_errors",
    "protect_workers",
    "start_workers",
]

_T = TypeVar("_T")
_ROW = np.dtype([("pid", np.int64), ("since", np.float64), ("file", "S500")])

_TIMED_OUT = "DataLoader timed out"
_HANGS = (
    "The disk or network that holds these files does not answer, or decoding them takes too long. "
    "Check them; for slow storage raise dataloader.train.timeout (seconds; 0 waits without an "
    "end). --resume continues from the last checkpoint."
)
_DIED = (
    "Most often the memory was used up and the system killed the worker (dmesg says so): lower "
    "dataloader.train.num_workers, or use smaller images. After a bus error shared memory is full: "
    "enlarge /dev/shm (docker run --shm-size=16g), or lower num_workers. --resume continues from "
    "the last checkpoint."
)


class DataWorkerError(RuntimeError):
    """A data worker died or hangs; the message names it, its file, likely causes, and remedies."""


class WorkerBoard:
    """What each worker is reading, in memory that they share with the training process.

    Args:
        num_workers: number of workers; 0 if there are none.
    """

    def __init__(self, num_workers: int) -> None:
        self._memory: Any = RawArray(ctypes.c_char, max(1, num_workers) * _ROW.itemsize)

    @contextmanager
    def reading(self, file: object) -> Iterator[None]:
        """Note the name of a file while it is read; without an effect outside of workers."""
        info = get_worker_info()
        if info is None:
            yield
            return
        row = self._rows()[info.id : info.id + 1]
        row[0] = (os.getpid(), time.time(), str(file).encode()[-500:])
        yield
        row["file"] = b""  # not after an error: a worker that ends by one has read this file

    def describe(self) -> list[str]:
        """Return a line for each worker that is reading a file."""
        return [
            f"worker {number} (pid {row['pid']}): {row['file'].decode(errors='replace')}, for "
            f"{time.time() - row['since']:.0f} s"
            for number, row in enumerate(self._rows())
            if row["file"]
        ]

    def kill(self) -> None:
        """End all workers, also those that no longer react to anything else."""
        if hasattr(signal, "SIGCHLD"):  # PyTorch would report their deaths
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for pid in self._rows()["pid"]:
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), getattr(signal, "SIGKILL", signal.SIGTERM))

    def _rows(self) -> np.ndarray:
        return np.frombuffer(self._memory, _ROW)


def leave_signals_to_main(worker: int) -> None:
    """Let a worker ignore signals that end a run in order, unless the main process sends them.

    Clusters send them to all processes of a job. A ``worker_init_fn`` of PyTorch's ``DataLoader``.

    Args:
        worker: its number, not used.
    """
    if not hasattr(signal, "sigwaitinfo"):  # not on every system
        return
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_main, args=(os.getppid(),), daemon=True).start()


def _obey_main(main: int) -> None:
    """End this process when ``main``, the process of this number, sends SIGTERM, as Python does."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main:
        pass
    os._exit(0)


def start_workers(loader: Iterable[_T]) -> Iterator[_T]:
    """Return the iterator of a loader; its protected workers hold SIGTERM back from the start.

    PyTorch starts threads in a worker before its ``worker_init_fn`` runs. They would not inherit
    what that function blocks, and a signal to the worker may reach any of its threads.

    Args:
        loader: see :func:`protect_workers`; others are iterated over as usual.
    """
    if getattr(loader, "worker_init_fn", None) is not leave_signals_to_main:
        return iter(loader)
    if not hasattr(signal, "pthread_sigmask"):  # not on every system
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_for_samples(samples: Iterator[Any], timeout: float) -> Iterator[Any]:
    """Yield the samples of a ``DataLoader`` whose own timeout is short.

    Args:
        samples: its iterator, which goes on after a timeout.
        timeout: seconds, after which its error is raised; 0 for never.

    Raises:
        RuntimeError: no sample arrived in that time.
    """
    start = time.monotonic()
    while True:
        try:
            sample = next(samples)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith(_TIMED_OUT):
                raise
            if timeout and time.monotonic() - start >= timeout:
                raise RuntimeError(f"{_TIMED_OUT} after {timeout} seconds") from error
        else:
            yield sample
            start = time.monotonic()


@contextmanager
def explained_worker_errors(loader: object) -> Iterator[None]:
    """Say what can be done about a worker that died or hangs.

    PyTorch reports the death of a worker at any place of the main process.

    Args:
        loader: whose workers are running. :class:`vit_adapter.data.TrainLoader` knows their files.

    Raises:
        DataWorkerError: in place of the error of PyTorch's ``DataLoader``.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip()
        hangs = reason.startswith(_TIMED_OUT)
        if not (hangs or reason.startswith("DataLoader worker")):
            raise
        board = getattr(loader, "board", None)
        lines = [f"process {comm.get_rank()}: {reason.rstrip('.')}."]
        if board is not None:
            lines += ["being read:", *(board.describe() or ["no file"])]
            # Python waits for its child processes when it ends, so they must end before that.
            Finalize(None, board.kill, exitpriority=100)
        lines.append(_HANGS if hangs else _DIED)
        raise DataWorkerError("\n".join(lines)) from error


def protect_workers(loader: object) -> None:
    """Let the workers of a PyTorch ``DataLoader`` ignore signals that end a run in order.

    Iterate over it by :func:`start_workers`.

    Args:
        loader: not changed if it is something else, or has a ``worker_init_fn``.
    """
    if isinstance(loader, DataLoader) and loader.worker_init_fn is None:
        loader.worker_init_fn = leave_signals_to_main
