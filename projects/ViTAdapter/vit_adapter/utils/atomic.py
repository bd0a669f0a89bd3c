"""Files and folders that appear under their names only when they are complete."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import torch

__all__ = [
    "TEMPORARY_MARK",
    "atomic_file",
    "atomic_folder",
    "atomic_open",
    "atomic_save",
    "publish_folder",
    "temporary_path",
]

TEMPORARY_MARK = ".unfinished-"
"""Part of the name of every file and folder that is still being written."""


@contextmanager
def atomic_open(
    path: str | os.PathLike[str], mode: str = "w", *, flush: bool = True
) -> Iterator[IO]:
    """Open a file for writing that appears under its name only when it is complete.

    The content goes to a temporary file in the same folder, which is flushed to disk and then
    renamed to ``path``. Readers of ``path`` see either the old file or the new one, even if the
    process is killed or the disk is full.

    Args:
        path: the final name; its folder must exist.
        mode: ``"w"`` or ``"wb"``.
        flush: wait until the file is on the disk, so that it survives a power cut. Use False for
            many files that can be created again.

    Raises:
        OSError: the file cannot be written; the message names it.
    """
    path = Path(os.path.abspath(os.fspath(path)))
    temporary = temporary_path(path)
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode.replace("w", "x"), encoding=encoding) as stream:
            yield stream
            if flush:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(temporary, path)
        if flush:
            _flush_folder(path.parent)  # otherwise a power cut could lose the new name
    except OSError as error:
        if error.errno is not None and error.filename is None:  # such as a full disk
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def atomic_save(obj: object, path: str | os.PathLike[str]) -> None:
    """Do ``torch.save(obj, path)``, but never leave an incomplete file at ``path``.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    with atomic_open(path, "wb") as stream:
        try:
            torch.save(obj, stream)
        except RuntimeError as error:  # of torch.save's archive, which hides what went wrong
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Let a library write a file, which appears under its name only when the block is done.

    Args:
        path: the final name; its folder must exist. An existing file is replaced.

    Yields:
        A path of the same name in a temporary folder next to it. The folder is removed in any case.
    """
    path = Path(os.path.abspath(os.fspath(path)))
    temporary = temporary_path(path)
    temporary.mkdir()
    try:
        yield temporary / path.name
        os.replace(temporary / path.name, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Create a folder that appears under its name only when the block is done.

    Args:
        path: the final name: unused, or an empty folder. Its parents are created.

    Yields:
        A temporary folder next to it, to write into. It is removed if the block fails.

    Raises:
        OSError: something else exists under that name by the end of the block.
    """
    path = Path(os.path.abspath(os.fspath(path)))
    temporary = temporary_path(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # already gone if all went well


def publish_folder(temporary: Path, path: Path) -> None:
    """Give a complete folder its name; a folder that has it already is replaced.

    Args:
        temporary: the folder, on the same disk; its files are on the disk.
        path: the name.
    """
    old = temporary_path(path)
    if path.exists():
        os.rename(path, old)
    os.rename(temporary, path)
    _flush_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def temporary_path(path: Path) -> Path:
    """Return a new name beside ``path`` for a file or folder that is not complete."""
    return path.with_name(f".{path.name}{TEMPORARY_MARK}{uuid.uuid4().hex}")


def _flush_folder(folder: Path) -> None:
    """Write a folder's list of names, which is separate from its files, to disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    with suppress(OSError):  # some network file systems refuse
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
