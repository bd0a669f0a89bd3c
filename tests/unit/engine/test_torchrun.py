"""The variables of torchrun: what they mean, and combinations that make no sense."""

import pytest
import torch

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.process_group import Process
from vit_adapter.engine.torchrun import (
    launched_process,
    refuse_unconnected_processes,
    restart_count,
)

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Process 5 of two machines with four processes each.
WHOLE = dict(zip(NAMES, ("5", "8", "1", "4", "host", "29500"), strict=True))


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is not None:
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"MASTER_ADDR": "node1"},
        {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"},
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "LOCAL_WORLD_SIZE": "2"},
        {"RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": ""},
        # A job on one machine, which may start several processes with --num-gpus.
        {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "23456"},
        {"WORLD_SIZE": "1"},
    ],
)
def test_variables_that_clusters_set_for_any_job(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, variables)
    assert launched_process("cpu") is None


def test_place_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, WHOLE)
    expected = Process(rank=5, world_size=8, local_rank=1, init_method="env://", device_type="cpu")
    assert launched_process("cpu") == expected
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert launched_process("cpu") == expected


def test_torchrun_with_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    set_variables(monkeypatch, WHOLE | one)
    process = launched_process("cpu")
    assert process is not None
    assert (process.rank, process.world_size, process.local_rank) == (0, 1, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": None}, "has RANK=5, LOCAL_RANK=1 but no WORLD_SIZE"),
        ({"RANK": None}, "has WORLD_SIZE=8, LOCAL_RANK=1 but no RANK"),
        ({"LOCAL_RANK": None}, "but no LOCAL_RANK"),
        ({"MASTER_ADDR": None, "MASTER_PORT": ""}, "but no MASTER_ADDR, MASTER_PORT"),
        (dict.fromkeys(NAMES[1:]), "has RANK=5 but no WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER"),
        (dict.fromkeys(NAMES[:2]), "has LOCAL_RANK=1 but no RANK, WORLD_SIZE"),
        ({"RANK": "8"}, "has RANK=8, expected 0 to 7"),
        ({"RANK": "-1"}, "has RANK=-1, expected 0 to 7"),
        ({"RANK": "first"}, "has RANK='first', expected a whole number"),
        ({"RANK": "1.0"}, "has RANK='1.0', expected a whole number"),
        ({"WORLD_SIZE": "0"}, "has WORLD_SIZE=0, expected at least 1"),
        ({"WORLD_SIZE": "two"}, "has WORLD_SIZE='two'"),
        ({"WORLD_SIZE": "1", "RANK": "1", "LOCAL_RANK": None}, "has RANK=1, expected 0 to 0"),
        ({"LOCAL_RANK": "4"}, "has LOCAL_RANK=4, expected 0 to 3"),
        ({"LOCAL_RANK": "-1"}, "has LOCAL_RANK=-1, expected 0 to 3"),
        ({"LOCAL_WORLD_SIZE": "9"}, "has LOCAL_WORLD_SIZE=9, expected 1 to 8"),
        ({"LOCAL_WORLD_SIZE": None, "LOCAL_RANK": "8"}, "has LOCAL_RANK=8, expected 0 to 7"),
        ({"LOCAL_WORLD_SIZE": "all"}, "has LOCAL_WORLD_SIZE='all'"),
        ({"MASTER_PORT": "http"}, "has MASTER_PORT='http'"),
        ({"MASTER_PORT": "70000"}, "has MASTER_PORT=70000, expected 1 to 65535"),
    ],
)
def test_variables_that_make_no_sense(
    changes: dict[str, str | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, WHOLE | changes)
    with pytest.raises(UsageError, match=message) as caught:
        launched_process("cpu")
    assert "unset RANK, WORLD_SIZE, LOCAL_RANK" in str(caught.value)


@pytest.mark.parametrize("local_size", ["4", None])
def test_fewer_gpus_than_processes(local_size: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, WHOLE | {"LOCAL_WORLD_SIZE": local_size})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=r"on this machine is \d, but 1 CUDA devices are visible"):
        launched_process("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launched_process("cuda") is not None


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_other_launchers_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")  # for the whole job, which starts one process
    monkeypatch.setenv(name, "1")
    refuse_unconnected_processes()
    monkeypatch.setenv(name, "4")
    with pytest.raises(UsageError, match=rf"has started 4 processes \({name}\).*unset {name}"):
        refuse_unconnected_processes()


def test_restarts_are_distinguished_on_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """With several machines the count may differ between them."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
    set_variables(monkeypatch, WHOLE)
    assert launched_process("cpu").attempt == 0
    set_variables(monkeypatch, {"WORLD_SIZE": "4", "RANK": "1"})
    assert launched_process("cpu").attempt == 3


def test_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert restart_count() == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert restart_count() == 2
