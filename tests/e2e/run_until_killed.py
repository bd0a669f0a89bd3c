"""Run ``train_net.py`` in a process that waits inside the writing of a checkpoint, to be killed."""

import functools
import multiprocessing
import os
import time
from pathlib import Path

import torch
from detectron2.utils.events import JSONWriter

from vit_adapter.checkpoint import checkpointer
from vit_adapter.engine import hooks
from vit_adapter.engine.cli import main
from vit_adapter.utils import atomic

PLACES = ("half written", "before its name", "before last_checkpoint")


def run(command: list[str], place: str, writes: int, marker: str) -> None:
    """Train, and wait forever at a place of the writing of a checkpoint.

    Args:
        command: arguments of ``train_net.py``.
        place: one of :data:`PLACES`, or "" to train without waiting.
        writes: number of checkpoints that are written before that.
        marker: file that appears when the place is reached.
    """
    # Losses as they are, not medians, which start anew in each process.
    hooks.JSONWriter = functools.partial(JSONWriter, window_size=1)
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as without the test
    save, replace, tag = torch.save, os.replace, checkpointer.Checkpointer.tag_last_checkpoint
    state = {"left": writes, "now": False}

    def wait() -> None:
        Path(marker).touch()
        time.sleep(10_000)

    def count_save(data: object, stream: object) -> None:
        state["now"] = state["left"] == 0
        state["left"] -= 1
        start = stream.tell()
        save(data, stream)
        if state["now"] and place == "half written":
            stream.truncate(start + (stream.tell() - start) // 2)
            stream.flush()
            wait()

    def wait_before_replace(source: object, target: object) -> None:
        if state["now"] and place == "before its name" and str(target).endswith(".pth"):
            wait()
        replace(source, target)

    def wait_before_tag(self: object, name: str) -> None:
        if state["now"] and place == "before last_checkpoint":
            wait()
        tag(self, name)

    if place:
        atomic.torch.save = count_save
        atomic.os.replace = wait_before_replace
        checkpointer.Checkpointer.tag_last_checkpoint = wait_before_tag
    main(command)
