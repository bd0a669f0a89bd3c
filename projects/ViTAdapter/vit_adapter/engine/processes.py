"""Starting the processes of a run, on one machine or several, without a launcher.

Detectron2's own ``launch`` needs CUDA in v0.6, and later versions look at the visible GPUs instead
of the config's device.
"""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch.multiprocessing as mp

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.interruption import SIGNALS, Interrupted, handling
from vit_adapter.engine.process_group import Process, check_gpus, run_among_others
from vit_adapter.utils.atomic import atomic_open

__all__ = ["ProcessError", "ProcessLayout", "launch"]

_STATUSES = {128 + number for number in SIGNALS}
_GRACE = 30.0  # seconds in which the other processes may end by themselves after an interruption


class ProcessError(RuntimeError):
    """A process of the run was killed, or ended without saying why."""


@dataclass(frozen=True)
class ProcessLayout:
    """How many processes run on which machine.

    Attributes:
        device_type: "cpu" or "cuda".
        processes_per_machine: number of processes on each machine; with CUDA one per GPU.
        num_machines: number of machines; the same command runs on each.
        machine_rank: the number of this machine, from 0.
        dist_url: where the processes meet: ``tcp://host:port`` of the first machine, or "auto"
            for a free port of this machine.
    """

    device_type: str
    processes_per_machine: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"

    def __post_init__(self) -> None:
        """Refuse an impossible layout.

        Raises:
            UsageError: an option is out of range, or missing, or there are too few GPUs.
        """
        count = self.processes_per_machine
        if count < 1:
            raise UsageError(f"--num-gpus is {count}, expected at least 1, even on the CPU.")
        if self.num_machines < 1 or not 0 <= self.machine_rank < self.num_machines:
            raise UsageError(
                f"--machine-rank is {self.machine_rank} of --num-machines {self.num_machines}, "
                "expected 0 to --num-machines - 1."
            )
        if self.num_machines > 1 and self.dist_url == "auto":
            raise UsageError(
                "several machines need --dist-url tcp://<address of machine 0>:<free port>."
            )
        if self.device_type == "cuda":
            check_gpus(count, "--num-gpus")

    @property
    def world_size(self) -> int:
        """Number of processes on all machines."""
        return self.processes_per_machine * self.num_machines


def launch(
    main: Callable[..., None], processes: ProcessLayout | Process, arguments: tuple = ()
) -> None:
    """Run ``main(*arguments)`` in every process of a run and wait for those that start here.

    A single process, or one that a launcher has started, runs ``main`` directly. If a process
    fails, the others are stopped and its traceback is raised here.

    Args:
        main: an importable function.
        processes: which processes to start, or the place of this process among those that a
            launcher has started.
        arguments: picklable arguments of ``main``.

    Raises:
        UsageError: ``main`` raised it in one of the processes.
        Interrupted: a signal ended the processes; the calling process passes on those it receives.
        ProcessError: a process was killed, or ended without a traceback.
    """
    if isinstance(processes, Process):
        run_among_others(main, processes, arguments)
    elif processes.world_size == 1:
        main(*arguments)
    else:
        _start(main, processes, arguments)


def _start(main: Callable[..., None], layout: ProcessLayout, arguments: tuple) -> None:
    dist_url = layout.dist_url
    if dist_url == "auto":
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    # Each process writes its error message to a file, because a long one would block a pipe.
    with tempfile.TemporaryDirectory() as mistakes:
        try:
            context = mp.start_processes(
                _run_process,
                nprocs=layout.processes_per_machine,
                args=(main, layout, dist_url, arguments, mistakes, mp.get_start_method()),
                join=False,
                start_method="spawn",
            )
            _wait(context)
        except mp.ProcessRaisedException as error:
            found = sorted(Path(mistakes).glob("mistake_*"))
            if not found:
                raise
            raise UsageError(found[0].read_text(encoding="utf-8")) from error


def _wait(context: mp.ProcessContext) -> None:
    """Wait for all processes; when one of them fails, end the others within a minute.

    Raises:
        Interrupted, ProcessError: see :func:`launch`.
        ProcessRaisedException: with the traceback of the process that failed.
    """
    forwarded = []

    def forward(number: int, frame: FrameType | None) -> None:
        forwarded.append(number)
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    with handling(forward):
        first = _wait_for_first(context.processes)
        # An evaluation can be interrupted in one process alone; the others then wait for it.
        deadline = time.monotonic() + _GRACE if first in _STATUSES else 0.0
        for process in context.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        try:
            while not context.join():  # SIGTERM, and SIGKILL after 30 seconds
                pass
        except mp.ProcessExitedException as error:
            if first in _STATUSES or -first in forwarded:
                raise Interrupted(first - 128 if first > 0 else -first) from None
            raise ProcessError(_describe_end(error)) from None
        except mp.ProcessRaisedException:
            if first in _STATUSES:  # the others lost the connection to it
                raise Interrupted(first - 128) from None
            raise


def _wait_for_first(processes: Sequence[BaseProcess]) -> int:
    """Wait until a process fails, or all have ended; return the exit status of that process."""
    running: dict[Any, BaseProcess] = {process.sentinel: process for process in processes}
    while running:
        for sentinel in wait(running):
            process = running.pop(sentinel)
            process.join()
            if process.exitcode:
                return process.exitcode
    return 0


def _describe_end(error: mp.ProcessExitedException) -> str:
    how = f"was ended by {error.signal_name}" if error.signal_name else "ended without a traceback"
    cause = (
        " The system does this when memory runs out (see dmesg): lower "
        "dataloader.train.total_batch_size or num_workers."
        if error.signal_name == "SIGKILL"
        else ""
    )
    return (
        f"process {error.error_index} of this machine {how} (pid {error.error_pid}, exit status "
        f"{error.exit_code}), so the others were stopped.{cause} --resume continues from the last "
        "checkpoint."
    )


def _run_process(
    local_rank: int,
    main: Callable[..., None],
    layout: ProcessLayout,
    dist_url: str,
    arguments: tuple,
    mistakes: str,
    start_method: str,
) -> None:
    # A spawned process would also spawn its data workers, and each of them import everything anew.
    mp.set_start_method(start_method, force=True)
    process = Process(
        rank=layout.machine_rank * layout.processes_per_machine + local_rank,
        world_size=layout.world_size,
        local_rank=local_rank,
        init_method=dist_url,
        device_type=layout.device_type,
    )
    try:
        run_among_others(main, process, arguments)
    except UsageError as error:
        with atomic_open(os.path.join(mistakes, f"mistake_{local_rank}")) as stream:
            stream.write(str(error))
        raise


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
