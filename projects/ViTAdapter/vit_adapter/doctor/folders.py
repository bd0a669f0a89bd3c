"""Write access and free space of the folders that training, evaluation and downloads use."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

from vit_adapter.doctor.section import Options, Section

__all__ = ["check"]

GIBIBYTE = 2**30
LITTLE_SPACE = GIBIBYTE  # a checkpoint of a small detector takes a third of this
SHARED_MEMORY = Path("/dev/shm")
_SAMPLE = b"\0" * 2**16  # written to find out whether a folder can be written to
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the size of files is limited (`ulimit -f`)",
    errno.EROFS: "it is on a read-only file system",
    errno.EACCES: "it is not writable for this user",
    errno.EPERM: "it is not writable for this user",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)


def check(options: Options) -> Section:
    """Write to each folder, and look at its free space."""
    section = Section()
    advice = "Choose another folder (train.output_dir=FOLDER)"
    _check_folder("output", Path(options.output), advice, section, needed=True)
    try:
        section.facts["temporary files"] = tempfile.gettempdir()  # the first that is writable
    except OSError as error:
        section.fault(
            f"There is no folder for temporary files: {error.strerror}.",
            "Free some space there, or choose another folder: `export TMPDIR=FOLDER`.",
        )
    for name, folder, variable in _caches():
        advice = f"Choose another folder (`export {variable}=FOLDER`)"
        _check_folder(name, folder, advice, section, needed=False)
    _check_data(section)
    _check_shared_memory(section)
    return section


def _caches() -> list[tuple[str, Path, str]]:
    """Name, path and environment variable of each folder for downloads."""
    get = os.environ.get
    cache = Path(get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(get("HF_HOME") or cache / "huggingface")
    return [
        ("weights from Hugging Face", Path(get("HF_HUB_CACHE") or home / "hub"), "HF_HOME"),
        ("weights from PyTorch Hub", Path(get("TORCH_HOME") or cache / "torch"), "TORCH_HOME"),
        ("other downloads", Path(get("FVCORE_CACHE") or "~/.torch/iopath_cache"), "FVCORE_CACHE"),
    ]


def _check_folder(name: str, path: Path, advice: str, section: Section, *, needed: bool) -> None:
    """Add a folder's free space, and a finding if it cannot be written to or is nearly full.

    Args:
        name: of the folder in the report.
        path: need not exist.
        advice: how to choose another one.
        section: gets the result.
        needed: whether it is a fault, not only a warning, if nothing can be written there.
    """
    path = Path(os.path.abspath(path.expanduser()))
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    add = section.fault if needed else section.warn
    try:
        free = shutil.disk_usage(existing).free
        section.facts[name] = f"{path}, {free / GIBIBYTE:.1f} GiB free"
        with tempfile.TemporaryFile(dir=existing) as stream:
            stream.write(_SAMPLE)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"{error.strerror or error}")
        section.facts[name] = f"{path}, not usable"
        how = "free some space" if error.errno in _FULL else "make it writable"
        add(
            f"The folder for {name}, {path}, cannot be written to: {reason}.",
            f"{advice}, or {how}. `df -h {existing}` and `ls -ld {existing}` show its state.",
        )
        return
    if free < LITTLE_SPACE:
        section.warn(
            f"The folder for {name}, {path}, has only {free / 2**20:,.0f} MiB of free space.",
            f"{advice}, or free some space: `df -h {existing}`.",
        )


def _check_data(section: Section) -> None:
    """Add the folder of all data sets, which only has to be readable."""
    stated = os.environ.get("DETECTRON2_DATASETS")
    folder = Path(stated or "datasets").expanduser().absolute()
    try:
        content = sorted(path.name for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        section.facts["data"] = f"{folder}, {error.strerror}"
        if stated:
            section.warn(
                f"DETECTRON2_DATASETS={stated} cannot be read: {error.strerror}.",
                "Set it to the folder that holds the data sets, such as coco/.",
            )
        return
    free = shutil.disk_usage(folder).free
    section.facts["data"] = f"{folder}, {free / GIBIBYTE:.1f} GiB free"
    section.facts["data sets"] = content


def _check_shared_memory(section: Section) -> None:
    """Warn about the small shared memory of containers, in which data workers pass images."""
    if not SHARED_MEMORY.is_dir():
        return
    size = shutil.disk_usage(SHARED_MEMORY).total
    section.facts["shared memory"] = f"{size / GIBIBYTE:.1f} GiB"
    if size < LITTLE_SPACE:
        section.warn(
            f"{SHARED_MEMORY} has only {size / 2**20:,.0f} MiB: data workers may be killed.",
            "Start the container with `--shm-size=8g`, or train with "
            "dataloader.train.num_workers=0.",
        )
