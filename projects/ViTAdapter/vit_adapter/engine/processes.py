"""Starting the processes of a run: CUDA with NCCL, CPU with Gloo, one machine or several.

Detectron2's own ``launch`` asks for CUDA in v0.6 and decides by what is visible, not by the device
of the config, in later versions; hence these few lines.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from vit_adapter.engine.config import UsageError

__all__ = ["ProcessLayout", "launch"]

_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class ProcessLayout:
    """How many processes run where.

    Attributes:
        device_type: "cpu" or "cuda".
        processes_per_machine: with CUDA one per GPU.
        num_machines: machines that take part; the same command runs on each.
        machine_rank: which of them this is, from 0.
        dist_url: where the processes meet: ``tcp://host:port`` of the first machine, or "auto"
            for a free port of this machine.
    """

    device_type: str
    processes_per_machine: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"

    def __post_init__(self) -> None:
        """Refuse a layout that cannot start.

        Raises:
            UsageError: naming the option and what it can be.
        """
        count = self.processes_per_machine
        if count < 1:
            raise UsageError(f"--num-gpus is {count}, expected at least 1 (the CPU is 1 as well).")
        if self.num_machines < 1 or not 0 <= self.machine_rank < self.num_machines:
            raise UsageError(
                f"--machine-rank is {self.machine_rank} of --num-machines {self.num_machines}, "
                "expected 0 to --num-machines - 1."
            )
        if self.num_machines > 1 and self.dist_url == "auto":
            raise UsageError(
                "several machines need --dist-url tcp://<address of machine 0>:<free port>."
            )
        if self.device_type == "cuda" and count > torch.cuda.device_count():
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
            raise UsageError(
                f"--num-gpus is {count}, but {torch.cuda.device_count()} CUDA devices are visible "
                f"(CUDA_VISIBLE_DEVICES: {visible}). Use at most as many, or train.device=cpu."
            )

    @property
    def world_size(self) -> int:
        """Number of processes on all machines."""
        return self.processes_per_machine * self.num_machines


def launch(main: Callable[..., None], layout: ProcessLayout, arguments: tuple = ()) -> None:
    """Run ``main(*arguments)`` in every process of the layout and wait for all of them.

    One process on one machine runs in the calling process. If a process fails, the others are
    stopped and its traceback is raised here.

    Args:
        main: an importable function.
        layout: how many processes, on which device.
        arguments: picklable arguments of ``main``.
    """
    if layout.world_size == 1:
        main(*arguments)
        return
    dist_url = layout.dist_url
    if dist_url == "auto":
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    mp.start_processes(
        _run_process,
        nprocs=layout.processes_per_machine,
        args=(main, layout, dist_url, arguments),
        start_method="spawn",
    )


def _run_process(
    local_rank: int,
    main: Callable[..., None],
    layout: ProcessLayout,
    dist_url: str,
    arguments: tuple,
) -> None:
    cuda = layout.device_type == "cuda"
    if cuda:
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        # Without a limit each process takes every core and they slow each other down.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // layout.processes_per_machine))
    dist.init_process_group(
        backend="nccl" if cuda else "gloo",
        init_method=dist_url,
        world_size=layout.world_size,
        rank=layout.machine_rank * layout.processes_per_machine + local_rank,
        timeout=_TIMEOUT,
    )
    _create_local_group(layout)
    comm.synchronize()
    main(*arguments)
    # Not after a failure: the launcher stops the other processes, nobody would answer.
    dist.destroy_process_group()


def _create_local_group(layout: ProcessLayout) -> None:
    """Tell Detectron2 which processes share this machine (``comm.get_local_rank``)."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(layout.processes_per_machine)
        return
    for machine in range(layout.num_machines):  # v0.6: its launch() sets this variable itself
        first = machine * layout.processes_per_machine
        group = dist.new_group(list(range(first, first + layout.processes_per_machine)))
        if machine == layout.machine_rank:
            comm._LOCAL_PROCESS_GROUP = group


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
