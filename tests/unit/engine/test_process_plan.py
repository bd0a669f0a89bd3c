"""Which processes a command starts, and options that contradict each other."""

import pytest
from omegaconf import DictConfig, OmegaConf

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.cli import build_parser
from vit_adapter.engine.process_group import Process
from vit_adapter.engine.process_plan import plan_processes
from vit_adapter.engine.processes import ProcessLayout

MACHINES = ["--num-machines", "2", "--dist-url", "tcp://host:1"]


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables that torchrun sets."""
    variables = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def plan(
    command_line: list[str], device: str = "cpu", batch: int = 4, **train: object
) -> ProcessLayout | Process:
    cfg: DictConfig = OmegaConf.create(
        {"train": {"device": device, **train}, "dataloader": {"train": {"total_batch_size": batch}}}
    )
    return plan_processes(cfg, build_parser().parse_args(command_line))


def test_layout_of_the_command_line() -> None:
    assert plan([]) == ProcessLayout(device_type="cpu")
    expected = ProcessLayout("cpu", 2, 2, machine_rank=1, dist_url="tcp://host:1")
    assert plan(["--num-gpus", "2", "--machine-rank", "1", *MACHINES]) == expected


def test_place_from_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun(monkeypatch)
    expected = Process(1, 2, 1, init_method="env://", device_type="cpu")
    assert plan([]) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-gpus", "2"], "as RANK 1 of 2: omit --num-gpus"),
        (["--num-gpus", "1"], "omit --num-gpus"),
        (["--num-machines", "1"], "omit --num-gpus, --num-machines"),
        (["--machine-rank", "0"], "omit"),
        (["--dist-url", "auto"], "omit"),
    ],
)
def test_torchrun_takes_no_options(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchrun(monkeypatch)
    with pytest.raises(UsageError, match=message):
        plan(arguments)


def test_processes_of_another_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(UsageError, match="srun has started 2 processes"):
        plan([])
    assert plan(MACHINES).world_size == 2


@pytest.mark.parametrize("options", [["--num-gpus", "2"], MACHINES])
def test_one_device_for_several_processes(options: list[str]) -> None:
    message = "train.device=cpu:0 is one device for 2 processes; use train.device=cpu and"
    with pytest.raises(UsageError, match=message):
        plan(options, device="cpu:0")
    assert plan([], device="cpu:0").world_size == 1


def test_one_device_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun(monkeypatch)
    with pytest.raises(UsageError, match="train.device=cpu:0 is one device for 2 processes"):
        plan([], device="cpu:0")


def test_batch_that_cannot_be_divided() -> None:
    with pytest.raises(UsageError, match="total_batch_size=3 cannot be divided evenly among 2"):
        plan(["--num-gpus", "2"], batch=3)
    assert plan(["--num-gpus", "2", "--eval-only"], batch=3).world_size == 2


def test_batch_that_cannot_be_divided_into_micro_batches() -> None:
    message = "total_batch_size=8 gives each of 2 processes 4 images, .*train.accumulate=3.* of 6,"
    with pytest.raises(UsageError, match=message):
        plan(["--num-gpus", "2"], batch=8, accumulate=3)
    assert plan(["--num-gpus", "2"], batch=8, accumulate=4).world_size == 2
    assert plan(["--eval-only"], batch=8, accumulate=3).world_size == 1
