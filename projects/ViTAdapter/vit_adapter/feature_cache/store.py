"""The files of a feature cache: one for each view of an image.

A file is in the safetensors format, which is mapped into memory for reading. It holds one tensor,
``taps`` (T, h, w, D) in bfloat16, and the checksum of its bytes. Its name is the key of the view.
Files appear only when they are complete, so several processes can share a folder.

Shapes: T taps, h/w grid of patches, D embed dim.
"""

import errno
import logging
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vit_adapter.utils.atomic import atomic_open

__all__ = ["TapStore"]

logger = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
_HEADER_BYTES = 160  # of one file, about


class TapStore:
    """The taps of views on disk.

    Args:
        folder: where the files are; it must exist for writing.

    Attributes:
        num_read: views that were found.
        num_computed: views that were not found, or not intact.
        num_corrupt: those that were found but were not intact.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_read = self.num_computed = self.num_corrupt = 0
        self._reported: set[str] = set()
        self._writes = True

    @staticmethod
    def file_bytes(shape: tuple[int, int, int, int]) -> int:
        """The size of a file with taps of a shape (T, h, w, D)."""
        return 2 * torch.Size(shape).numel() + _HEADER_BYTES

    def stored_bytes(self) -> int:
        """The size of all files in the folder."""
        return sum(file.stat().st_size for file in self.folder.glob(f"*/*{_SUFFIX}"))

    def read(self, key: str, shape: tuple[int, int, int, int]) -> Tensor | None:
        """Return the taps of a view, or None if they are not there.

        A file that is damaged or has another shape counts as missing, and is reported once.

        Args:
            key: hexadecimal name of the view.
            shape: (T, h, w, D) that the taps must have.
        """
        path = self._path(key)
        try:
            with safe_open(path, "pt") as file:
                checksum = (file.metadata() or {}).get("crc32")
                taps = file.get_tensor("taps")
        except FileNotFoundError:
            taps, problem = None, ""
        except (SafetensorError, OSError) as error:
            taps, problem = None, str(error)
        else:
            problem = _find_problem(taps, shape, checksum)
        if problem and key not in self._reported:
            self._reported.add(key)
            logger.warning(
                "The feature cache file %s is damaged (%s). It is computed again.", path, problem
            )
        self.num_corrupt += bool(problem)
        found = taps is not None and not problem
        self.num_read += found
        self.num_computed += not found
        return taps if found else None

    def write(self, key: str, taps: Tensor) -> None:
        """Store the taps (T, h, w, D) of a view, bfloat16 on the CPU.

        If the disk is full or read-only, this is reported once and training goes on without
        storing anything else.
        """
        if not self._writes:
            return
        path = self._path(key)
        taps = taps.contiguous()
        try:
            path.parent.mkdir(exist_ok=True)
            with atomic_open(path, "wb", flush=False) as stream:
                stream.write(save({"taps": taps}, {"crc32": _checksum(taps)}))
        except OSError as error:
            self._writes = False
            full = error.errno == errno.ENOSPC
            logger.warning(
                "The feature cache in %s cannot be written (%s). Training goes on and stores no "
                "more features; %s.",
                self.folder,
                error,
                "free some space on the disk to continue the cache in a later run"
                if full
                else "make the folder writable to continue the cache in a later run",
            )

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{_SUFFIX}"


def _find_problem(taps: Tensor, shape: tuple[int, ...], checksum: str | None) -> str:
    """Say what is wrong with the content of a file; empty if nothing is."""
    if taps.dtype != torch.bfloat16 or tuple(taps.shape) != shape:
        return f"it holds {taps.dtype} {tuple(taps.shape)}, expected torch.bfloat16 {shape}"
    if _checksum(taps) != checksum:
        return "its checksum is wrong"
    return ""


def _checksum(taps: Tensor) -> str:
    return f"{zlib.crc32(taps.view(torch.uint8).numpy()):08x}"
