"""Files and folders that appear under their names only when they are complete."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import torch

__all__ = ["TEMPORARY_MARK", "atomic_folder", "atomic_open", "atomic_save"]

TEMPORARY_MARK = ".unfinished-"
"""Part of the name of every file and folder that is still being written."""


@contextmanager
def atomic_open(
    path: str | os.PathLike[str], mode: str = "w", *, flush: bool = True
) -> Iterator[IO]:
    """Open a file for writing that appears under its name only when it is complete.

    The text or bytes go to a temporary file in the same folder, which is flushed to the disk and
    then renamed over ``path``. Whoever reads ``path`` sees the old file or the new one, also when
    the process is killed or the disk is full.

    Args:
        path: the final name; its folder must exist.
        mode: ``"w"`` or ``"wb"``.
        flush: wait until the disk has the file, so that it survives a power cut. False for many
            files that can be made again.
    """
    path = Path(os.path.abspath(os.fspath(path)))
    temporary = _temporary(path)
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode.replace("w", "x"), encoding=encoding) as stream:
            yield stream
            if flush:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(temporary, path)
        if flush:
            _flush_folder(path.parent)  # else a power cut could lose the new name
    finally:
        temporary.unlink(missing_ok=True)


def atomic_save(obj: object, path: str | os.PathLike[str]) -> None:
    """``torch.save(obj, path)`` that never leaves an incomplete file under ``path``."""
    with atomic_open(path, "wb") as stream:
        torch.save(obj, stream)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder that appears under its name only when the block is done.

    Args:
        path: the final name, which must be free, or an empty folder. Its parents are made.

    Yields:
        A temporary folder beside it, to write into. It is removed if the block fails.

    Raises:
        OSError: by now there is something under that name.
    """
    path = Path(os.path.abspath(os.fspath(path)))
    temporary = _temporary(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone already if all went well


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}{TEMPORARY_MARK}{uuid.uuid4().hex}")


def _flush_folder(folder: Path) -> None:
    """Write a folder's list of names, a file of its own, to the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    with suppress(OSError):  # some network file systems refuse
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
