"""Process layouts, and real processes."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import start

from vit_adapter.config.errors import UsageError
from vit_adapter.engine.process_group import Process
from vit_adapter.engine.processes import ProcessLayout, launch

PROGRAM = """
import itertools
import multiprocessing

import torch
import torch.distributed as dist
from detectron2.utils import comm
from omegaconf import OmegaConf
from vit_adapter.engine.parallel import gather_state, parallelise, share_buffers, unwrap
from vit_adapter.engine.processes import ProcessLayout, launch
from vit_adapter.layers.sync_norm import GlooSyncBatchNorm, adapt_sync_batch_norm

def work():
    assert dist.get_backend() == "gloo"
    assert comm.get_local_size() == comm.get_world_size() == 2
    assert comm.get_local_rank() == comm.get_rank()
    assert comm.all_gather(comm.get_rank()) == [0, 1]
    assert multiprocessing.get_start_method() == START_METHOD  # of data workers
    torch.manual_seed(0)
    joint = torch.randn(4, 3, 5, 5)
    settings = itertools.product(
        ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)),
        (2, 3, 4),  # maps of the first process; the other one has the rest, or none
    )
    for (dtype, tolerance), first in settings:
        norm = adapt_sync_batch_norm(torch.nn.SyncBatchNorm(3))
        assert type(norm) is GlooSyncBatchNorm
        reference = torch.nn.BatchNorm2d(3)
        part = slice(first, 4) if comm.get_rank() else slice(0, first)
        mine = joint[part].to(dtype, copy=True).requires_grad_()
        whole = joint.to(dtype).to(torch.float32, copy=True).requires_grad_()
        out, expected = norm(mine), reference(whole)
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), expected[part], rtol=0, atol=tolerance)
        torch.testing.assert_close(norm.running_var, reference.running_var, rtol=0, atol=2e-3)
        (out.float() ** 3).sum().backward()
        (expected ** 3).sum().backward()
        torch.testing.assert_close(
            mine.grad.float(), whole.grad[part], rtol=2 * tolerance, atol=10 * tolerance
        )
    norm = torch.nn.BatchNorm2d(3)
    norm(torch.randn(2, 3, 5, 5) + comm.get_rank())
    norms = comm.all_gather(norm.state_dict())
    assert not torch.equal(norms[0]["running_mean"], norms[1]["running_mean"])
    share_buffers(norm)
    for name, value in norm.state_dict().items():
        assert torch.equal(value, norms[0][name])
    model = torch.nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    wrapped = parallelise(OmegaConf.create({"train": {}}), model)
    assert wrapped is not model and unwrap(wrapped) is model
    weights = comm.all_gather({name: value.clone() for name, value in model.state_dict().items()})
    assert weights[0] == weights[1] == gather_state(unwrap(wrapped).state_dict())
    wrapped(torch.full((1, 1), 1.0 + comm.get_rank())).backward()
    assert model.weight.grad.item() == 1.5
    comm.synchronize()
    if comm.get_rank() == 0:
        print("finished with", torch.get_num_threads(), "threads", flush=True)
    comm.synchronize()
    if comm.get_rank() == 1:
        raise RuntimeError("process 1 fails on purpose")
    comm.synchronize()  # waits for a process that will not arrive

START_METHOD = "{start_method}"

if __name__ == "__main__":
    launch(work, ProcessLayout(device_type="cpu", processes_per_machine=2))
"""


MISTAKE = """
from detectron2.utils import comm
from vit_adapter.config.errors import UsageError
from vit_adapter.engine.processes import ProcessLayout, launch

def work():
    if comm.get_rank() == 1:
        raise UsageError("train.x is wrong" + 100_000 * "!")  # more than a pipe can hold
    comm.synchronize()

def main():
    try:
        launch(work, ProcessLayout(device_type="cpu", processes_per_machine=2))
    except UsageError as error:
        print("caught:", error)
"""


@pytest.mark.slow
def test_two_cpu_processes(tmp_path: Path) -> None:
    """They share batch statistics, buffers, gradients and cores; the failure of one ends both."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("{start_method}", multiprocessing.get_start_method()))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, str(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert f"finished with {max(1, os.cpu_count() // 2)} threads" in done.stdout, done.stderr
    assert done.returncode != 0
    assert "process 1 fails on purpose" in done.stderr


@pytest.mark.slow
def test_mistake_found_by_one_process(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(MISTAKE)
    process = start(program, "main", output=tmp_path / "output")
    process.join(300)
    lines = (tmp_path / "output").read_text().splitlines()
    assert "caught: train.x is wrong" + 100_000 * "!" in lines


@pytest.mark.parametrize(
    "processes", [ProcessLayout(device_type="cpu"), Process(0, 1, 0, "env://", "cpu")]
)
def test_a_single_process_is_the_calling_one(processes: ProcessLayout | Process) -> None:
    seen = []
    launch(seen.append, processes, (os.getpid(),))
    assert seen == [os.getpid()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes_per_machine": 0}, "--num-gpus is 0"),
        ({"num_machines": 0}, "--num-machines 0"),
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank is 2 of --num-machines 2"),
        ({"machine_rank": -1}, "--machine-rank is -1"),
        ({"num_machines": 2}, "several machines need --dist-url"),
    ],
)
def test_impossible_layout(options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ProcessLayout(device_type="cpu", **options)


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert ProcessLayout(device_type="cuda").world_size == 1
    with pytest.raises(UsageError, match=r"--num-gpus is 2, but 1 CUDA devices.*: 3\)"):
        ProcessLayout(device_type="cuda", processes_per_machine=2)


def test_world_size() -> None:
    layout = ProcessLayout(
        device_type="cpu", processes_per_machine=3, num_machines=2, dist_url="tcp://host:1"
    )
    assert layout.world_size == 6
