"""Processes that are forked from a server which has imported PyTorch and the package.

A new interpreter takes about five seconds of computing to import them. Here only the server does,
once for all tests of a pytest process.
"""

import importlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

IMPORTED = "vit_adapter.engine.cli", "vit_adapter.model_zoo", "vit_adapter.detection"


def start(
    program: Path,
    function: str,
    *arguments: object,
    folders: Sequence[Path] = (),
    output: Path | None = None,
) -> BaseProcess:
    """Start a process that calls a function of a program.

    Args:
        program: a Python file.
        function: name of the function.
        arguments: what it gets; they are pickled.
        folders: where the program finds modules, before its own folder.
        output: file to which both output streams are appended; else they are those of the server.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork processes")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    paths = [str(path) for path in (*folders, program.parent)]
    call = (paths, program.stem, function, arguments)
    process = context.Process(target=_call, args=(output, *call))
    process.start()
    return process


def run_group(
    program: Path,
    *arguments: object,
    processes: int = 2,
    folders: Sequence[Path] = (),
    timeout: float = 1200,
) -> str:
    """Call ``work(*arguments)`` of a program in every process of a group on the CPU.

    Args:
        program: a Python file.
        arguments: what ``work`` gets; they are pickled.
        processes: number of processes.
        folders: where the program finds modules, before its own folder.
        timeout: seconds until the processes must have ended.

    Returns:
        What the processes print.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        group = [
            start(
                *(Path(__file__), "join", program.stem, rank, processes, folder, arguments),
                folders=[*folders, program.parent],
                output=output,
            )
            for rank in range(processes)
        ]
        try:
            _wait(group, timeout)
        finally:
            for process in group:
                process.kill()
                process.join()
        text = output.read_text()
    assert [process.exitcode for process in group] == [0] * processes, text
    return text


def _wait(group: Sequence[BaseProcess], timeout: float) -> None:
    """Wait until all have ended, or one has failed, or the time is over."""
    deadline = time.monotonic() + timeout
    running = {process.sentinel: process for process in group}
    while running and time.monotonic() < deadline:
        for sentinel in wait(running, timeout=1):
            process = running.pop(sentinel)
            process.join()
            if process.exitcode:
                return


def _call(
    output: Path | None, paths: list[str], module: str, function: str, arguments: tuple
) -> None:
    assert IMPORTED[0] in sys.modules, "the server has imported nothing"
    os.environ["OMP_NUM_THREADS"] = "1"  # for run_among_others
    sys.modules["torch"].set_num_threads(1)
    _fork_groups()
    if output is not None:
        stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        # Whole lines, also where PYTHONUNBUFFERED is set: the processes of a group share the file.
        sys.stdout.reconfigure(line_buffering=True, write_through=False)
    sys.path[:0] = paths
    getattr(importlib.import_module(module), function)(*arguments)


def join(module: str, rank: int, processes: int, folder: str, arguments: tuple) -> None:
    """Join a group that meets in a folder, and call ``work`` of the module."""
    from vit_adapter.engine.process_group import Process, run_among_others

    process = Process(rank, processes, rank, f"file://{folder}/store", "cpu")
    run_among_others(importlib.import_module(module).work, process, arguments)


def torchrun(options: Sequence[str], module: str, function: str, *arguments: object) -> None:
    """Do what the program of this name does; the two workers are forked and call a function."""
    from torch.distributed import run
    from torch.distributed.launcher.api import elastic_launch

    meeting = ("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--rdzv-id=tests")
    words = [*meeting, "--nproc-per-node=2", *options, module]
    config, *_ = run.config_from_args(run.get_args_parser().parse_args(words))
    config.start_method = "fork"
    elastic_launch(config, getattr(importlib.import_module(module), function))(*arguments)


def _fork_groups() -> None:
    """Let the processes that PyTorch starts for this one be forked, too."""
    multiprocessing = importlib.import_module("torch.multiprocessing")
    start_processes = multiprocessing.start_processes

    def fork(*arguments: object, **options: object) -> object:
        return start_processes(*arguments, **options | {"start_method": "fork"})

    multiprocessing.start_processes = fork
