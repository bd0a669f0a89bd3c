"""One process of a run: joining and leaving the group of processes."""

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.distributed.rendezvous import rendezvous

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.interruption import Interrupted

__all__ = ["Process", "check_gpus", "run_among_others"]

_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Process:
    """The place of a process among those of its run.

    Attributes:
        rank: its number among the processes of all machines, from 0.
        world_size: number of processes on all machines.
        local_rank: its number on its machine, from 0; with CUDA also the number of its GPU.
        init_method: where the processes meet: ``tcp://host:port``, or ``env://`` for the address
            in the environment.
        device_type: "cpu" (Gloo) or "cuda" (NCCL).
        attempt: how often the processes were started before with the same address.
    """

    rank: int
    world_size: int
    local_rank: int
    init_method: str
    device_type: str
    attempt: int = 0


def check_gpus(count: int, source: str) -> None:
    """Refuse more processes on this machine than it has GPUs.

    Args:
        count: number of processes on this machine.
        source: where that number comes from, for the message.

    Raises:
        UsageError: there are more processes than visible CUDA devices.
    """
    if count > torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        raise UsageError(
            f"{source} is {count}, but {torch.cuda.device_count()} CUDA devices are visible "
            f"(CUDA_VISIBLE_DEVICES: {visible}). Use at most that many, or train.device=cpu."
        )


def run_among_others(main: Callable[..., None], process: Process, arguments: tuple = ()) -> None:
    """Join the process group, call ``main(*arguments)``, and leave the group.

    A run with a single process needs no group.

    Args:
        main: called by every process of the run.
        process: the place of this process.
        arguments: arguments of ``main``.

    Raises:
        UsageError: the processes of a machine are not numbered consecutively.
        Interrupted: ``main`` raised it.
    """
    if process.world_size == 1:
        main(*arguments)
        return
    cuda = process.device_type == "cuda"
    if cuda:
        torch.cuda.set_device(process.local_rank)
    dist.init_process_group(
        backend="nccl" if cuda else "gloo",
        store=_meet(process),
        world_size=process.world_size,
        rank=process.rank,
        timeout=_TIMEOUT,
    )
    _create_local_group(process)
    if not cuda and "OMP_NUM_THREADS" not in os.environ:
        # Without a limit each process takes every core and they slow each other down.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // comm.get_local_size()))
    comm.synchronize()
    interruption = 0
    try:
        main(*arguments)
    except Interrupted as error:  # which refers to the model until it is dropped here
        if not error.together:
            raise
        interruption = error.number
    # Skipped after a failure: the launcher stops the other processes, so this would wait forever.
    _leave_group()
    if interruption:
        raise Interrupted(interruption, together=True)


def _leave_group() -> None:
    """Leave the process group and end its threads.

    A group that Detectron2's ``comm`` or a trained model still refers to keeps its threads. They
    would run while the interpreter shuts down, which can abort the process.
    """
    dist.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    gc.collect()  # the trainer and its hooks refer to each other


def _meet(process: Process) -> dist.Store:
    """Return the store through which the processes find each other.

    torchrun keeps one store while it restarts its processes (PyTorch's issue 135712). A prefix per
    attempt keeps them from using the addresses of processes that no longer exist.
    """
    store, *_ = next(
        rendezvous(process.init_method, process.rank, process.world_size, timeout=_TIMEOUT)
    )
    store.set_timeout(_TIMEOUT)
    return dist.PrefixStore(f"attempt_{process.attempt}", store)


def _create_local_group(process: Process) -> None:
    """Tell Detectron2 which processes share this machine (``comm.get_local_rank``).

    Detectron2's own function, which v0.6 does not have, needs the same number of processes on every
    machine; torchrun does not.
    """
    local_ranks = comm.all_gather(process.local_rank)
    starts = [rank for rank, local_rank in enumerate(local_ranks) if local_rank == 0]
    ends = [*starts[1:], len(local_ranks)]
    machines = [range(*pair) for pair in zip(starts, ends, strict=False)]
    if local_ranks != [rank - machine[0] for machine in machines for rank in machine]:
        raise UsageError(
            f"the processes with RANK 0, 1, ... have LOCAL_RANK {local_ranks}; expected 0, 1, ... "
            "for each machine in turn, as torchrun numbers them."
        )
    for machine in machines:  # every process must take part in creating every group
        group = dist.new_group(list(machine))
        if process.rank in machine:
            comm._LOCAL_PROCESS_GROUP = group
