"""A loop in two processes that something ends; started by ``test_process_ends.py``."""

import os
import signal
import time

import torch
import torch.distributed as dist
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import nn

from vit_adapter.checkpoint.checkpointer import Checkpointer
from vit_adapter.engine.interruption import StopOnSignal
from vit_adapter.engine.processes import ProcessLayout, launch
from vit_adapter.engine.torchrun import launched_process


class Loop(TrainerBase):
    failed = False

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def run_step(self) -> None:
        dist.all_reduce(torch.ones(1))  # waits for the other process
        if self.iter == 2:
            act(self.what)


def act(what: str) -> None:
    if comm.get_rank() == 1:
        print("fault at", time.time(), flush=True)
    if what == "signal to the launcher" and comm.get_rank() == 0:
        os.kill(os.getppid(), signal.SIGTERM)
    if comm.get_rank() == 1:
        if what == "signal to one process":
            os.kill(os.getpid(), signal.SIGUSR1)
        elif what == "exception":
            raise RuntimeError("process 1 fails on purpose")
        elif what == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)


def work(folder: str, what: str) -> None:
    loop = Loop(what)
    loop.register_hooks([StopOnSignal(Checkpointer(nn.Linear(1, 1), folder))])
    try:
        loop.train(0, 10_000_000)
    finally:
        print("process", comm.get_rank(), "stopped at", loop.iter, flush=True)


def main(folder: str, what: str) -> None:
    layout = ProcessLayout(device_type="cpu", processes_per_machine=2)
    launch(work, launched_process("cpu") or layout, (folder, what))
