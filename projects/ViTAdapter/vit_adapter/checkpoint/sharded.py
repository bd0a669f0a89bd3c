"""Checkpoints that are folders, to which every process writes the tensors that it holds.

Such a folder has safetensors files, written by ``torch.distributed.checkpoint``, and ``rest.pth``:
an ordinary checkpoint with the tensors of those files on the meta device. Neither can hold code;
PyTorch's own format for such folders has its index in a pickle, so it is not used.
"""

from __future__ import annotations  # older versions of PyTorch lack the classes of some of them

import copy
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from detectron2.utils import comm
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from vit_adapter.utils.atomic import atomic_save, publish_folder, temporary_path

__all__ = [
    "REST",
    "SUFFIX",
    "ShardedWriter",
    "check_parts",
    "fill_in",
    "is_sharded_checkpoint",
    "remove_checkpoint",
]

SUFFIX = ".sharded"
REST = "rest.pth"

_READ_ERRORS = (
    *(CheckpointException, SafetensorError, OSError),
    *(ValueError, KeyError, RuntimeError, AssertionError),
)
_SEPARATOR = "/"


def is_sharded_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a path is such a folder."""
    return os.path.isfile(os.path.join(path, REST))


def remove_checkpoint(path: str | os.PathLike[str]) -> None:
    """Remove a file or folder, if it exists; a folder loses its name before its files."""
    path = Path(path)
    if path.is_dir():
        temporary = temporary_path(path)
        path.rename(temporary)
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class ShardedWriter:
    """Writes such folders, one at a time, while training goes on; every process has one.

    Raises:
        RuntimeError: this version of PyTorch cannot write such folders.
    """

    def __init__(self) -> None:
        if not hasattr(dcp, "HuggingFaceStorageWriter"):
            raise RuntimeError(
                "train.checkpointer.sharded=True needs a version of PyTorch that has "
                "torch.distributed.checkpoint.HuggingFaceStorageWriter, which "
                f"{torch.__version__} does not have. Update PyTorch, or set it to False."
            )
        self._running: Future[None] | None = None
        # Its messages must not mix with those of training.
        self._group = dist.new_group(backend="gloo") if comm.get_world_size() > 1 else None

    def start(
        self,
        checkpoint: Mapping[str, object],
        folder: Path,
        done: Callable[[Path], None] | None = None,
    ) -> None:
        """Copy all values to the CPU and start to write them; every process calls this.

        Args:
            checkpoint: what :meth:`Checkpointer.save` would write. The processes may hold different
                parts of a tensor (``DTensor``); of everything else that of the main process counts.
            folder: the final name. A folder of that name is replaced.
            done: called in the main process, in another thread, when the folder has its name.

        Raises:
            OSError: the previous folder could not be written, or this one cannot be started; raised
                in all processes.
        """
        self.wait()
        temporary = Path(comm.all_gather(str(temporary_path(folder)))[0])
        rest, tensors = _take_apart(checkpoint)
        problem = None
        if comm.is_main_process():
            try:
                temporary.mkdir()
                atomic_save(rest, temporary / REST)
            except OSError as error:
                problem = (error.errno, error.strerror or str(error))
        problem = comm.all_gather(problem)[0]
        if problem is not None:
            raise OSError(*problem)
        self._running = Future()
        written = dcp.async_save(
            tensors,
            storage_writer=dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True),
            planner=dcp.DefaultSavePlanner(dedup_save_to_lowest_rank=True),
            process_group=self._group,
            no_dist=self._group is None,
        )
        running = self._running

        def finish() -> None:
            written.result()
            if comm.is_main_process():
                publish_folder(temporary, folder)
                if done is not None:
                    done(folder)

        written.add_done_callback(lambda _: _settle(running, finish, temporary, folder))

    def wait(self) -> None:
        """Wait until the last folder is complete; every process calls this.

        Raises:
            OSError: it could not be written; raised in all processes.
        """
        running, self._running = self._running, None
        if running is None:
            return
        error = running.exception()
        problems = comm.all_gather(None if error is None else str(error))
        for problem in filter(None, problems):
            raise OSError(problem) from error


def fill_in(folder: str | os.PathLike[str], tree: object, *path: str) -> object:
    """Return a part of ``rest.pth`` with its tensors read from the other files.

    Args:
        folder: a checkpoint.
        tree: this part; meta tensors are replaced, everything else is kept.
        path: the keys that lead to it.

    Raises:
        ValueError: a file is damaged or missing.
    """
    tensors: dict[str, Tensor] = {}

    def make(name: str, value: Tensor) -> Tensor:
        if not value.is_meta:
            return value
        tensors[name] = torch.empty(value.shape, dtype=value.dtype)
        return tensors[name]

    filled = _map_tensors(tree, make, path)
    with _reading(folder) as reader, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        _refuse_missing(reader, tensors)
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return filled


def check_parts(folder: str | os.PathLike[str], tree: object) -> None:
    """Check that the safetensors files have all tensors of ``rest.pth``, without reading them.

    Raises:
        ValueError: a file is truncated or missing.
    """
    tensors: dict[str, Tensor] = {}

    def collect(name: str, value: Tensor) -> Tensor:
        if value.is_meta:
            tensors[name] = value
        return value

    _map_tensors(tree, collect, ())
    with _reading(folder) as reader:
        _refuse_missing(reader, tensors)


@contextmanager
def _reading(
    folder: str | os.PathLike[str],
) -> Iterator[dcp.HuggingFaceStorageReader]:
    if not hasattr(dcp, "HuggingFaceStorageReader"):
        raise ValueError(f"torch {torch.__version__} cannot read such a folder: update PyTorch")
    try:
        yield dcp.HuggingFaceStorageReader(os.fspath(folder))
    except _READ_ERRORS as error:
        raise ValueError(f"its safetensors files cannot be read: {error}") from error


def _refuse_missing(reader: dcp.HuggingFaceStorageReader, tensors: Mapping[str, Tensor]) -> None:
    known = reader.read_metadata().state_dict_metadata
    for name, tensor in tensors.items():
        pieces = known[name].chunks if name in known else ()
        if sum(math.prod(piece.sizes) for piece in pieces) != tensor.numel():
            raise ValueError(f"parts of {name} are missing")


def _settle(
    running: Future[None], finish: Callable[[], None], temporary: Path, folder: Path
) -> None:
    """Finish a folder, and tell the thread that waits for it how this went."""
    try:
        finish()
    except BaseException as error:  # raised again by that thread
        if comm.is_main_process():
            shutil.rmtree(temporary, ignore_errors=True)
        problem = OSError(f"the checkpoint {folder} could not be written: {error}")
        problem.__cause__ = error
        running.set_exception(problem)
    else:
        running.set_result(None)


def _take_apart(checkpoint: Mapping[str, object]) -> tuple[object, dict[str, Tensor]]:
    """Return the checkpoint with meta tensors, and what they stand for, by path."""
    tensors: dict[str, Tensor] = {}

    def take(name: str, value: Tensor) -> Tensor:
        if not (value.ndim and value.is_floating_point()):
            return value  # small, such as the state of a random number generator
        tensors[name] = value.detach()
        return torch.empty(value.shape, dtype=value.dtype, device="meta")

    return _map_tensors(checkpoint, take, ()), tensors


def _map_tensors(
    tree: object, function: Callable[[str, Tensor], Tensor], path: tuple[str, ...]
) -> object:
    """Apply a function of path and tensor to all tensors in nested mappings and lists."""
    if isinstance(tree, Tensor):
        return function(_SEPARATOR.join(path), tree)
    if isinstance(tree, Mapping):
        mapped: Any = copy.copy(tree)  # with the module versions attached to a state dict
        for key, value in tree.items():
            mapped[key] = _map_tensors(value, function, (*path, str(key)))
        return mapped
    if isinstance(tree, list | tuple) and type(tree) in (list, tuple):
        values = (
            _map_tensors(value, function, (*path, str(index))) for index, value in enumerate(tree)
        )
        return type(tree)(values)
    return tree
