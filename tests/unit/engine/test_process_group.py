"""Which processes share a machine, a run of one process, and the end of a group."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from vit_adapter.config.errors import UsageError
from vit_adapter.engine import process_group
from vit_adapter.engine.process_group import Process, _create_local_group, run_among_others


def make_groups(
    monkeypatch: pytest.MonkeyPatch, rank: int, local_ranks: list[int]
) -> tuple[list[list[int]], list[int]]:
    """The groups that a process creates, and the group of its own machine."""
    made = []
    monkeypatch.setattr(process_group.comm, "all_gather", lambda _: local_ranks)
    monkeypatch.setattr(process_group.dist, "new_group", lambda ranks: made.append(ranks) or ranks)
    monkeypatch.setattr(comm, "_LOCAL_PROCESS_GROUP", None)
    place = Process(rank, len(local_ranks), local_ranks[rank], "env://", "cpu")
    _create_local_group(place)
    return made, comm._LOCAL_PROCESS_GROUP


@pytest.mark.parametrize(
    ("local_ranks", "machines"),
    [
        ([0, 1], [[0, 1]]),
        ([0, 0], [[0], [1]]),
        ([0, 1, 0, 1], [[0, 1], [2, 3]]),
        ([0, 1, 2, 0], [[0, 1, 2], [3]]),
    ],
)
def test_processes_of_a_machine(
    local_ranks: list[int], machines: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in range(len(local_ranks)):
        made, own = make_groups(monkeypatch, rank, local_ranks)
        assert made == machines
        assert rank in own


@pytest.mark.parametrize("local_ranks", [[1, 0], [0, 2], [0, 0, 1, 1], [0, 1, 1], [1, 1]])
def test_ranks_that_are_not_consecutive(
    local_ranks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="expected 0, 1, ... for each machine in turn"):
        make_groups(monkeypatch, 0, local_ranks)


def test_one_process_needs_no_group() -> None:
    seen = []
    run_among_others(seen.append, Process(0, 1, 0, "env://", "cuda"), (os.getpid(),))
    assert seen == [os.getpid()]


def threads_of_groups() -> list[str]:
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="needs the threads that Linux lists"
)
def test_no_thread_of_a_group_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detectron2 caches groups, and a model in a reference cycle holds one."""
    monkeypatch.setattr(comm, "_LOCAL_PROCESS_GROUP", None)
    dist.init_process_group("gloo", store=dist.HashStore(), world_size=1, rank=0)
    comm._LOCAL_PROCESS_GROUP = dist.new_group([0])
    comm._get_global_gloo_group()
    model = DistributedDataParallel(torch.nn.Linear(1, 1))
    model.itself = [model]
    del model
    assert threads_of_groups()
    process_group._leave_group()
    assert threads_of_groups() == []
    assert not dist.is_initialized()
