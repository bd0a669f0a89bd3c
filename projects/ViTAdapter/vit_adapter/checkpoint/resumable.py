"""Which checkpoint a run is resumed from: the last one, or the newest before it that is whole."""

import logging
import zipfile
import zlib
from pathlib import Path

from vit_adapter.checkpoint.files import CheckpointFileError, load_checkpoint_file
from vit_adapter.checkpoint.run_files import (
    CHECKPOINTS,
    FINAL_CHECKPOINT,
    LAST_CHECKPOINT,
    SHARDED_CHECKPOINTS,
)
from vit_adapter.checkpoint.sharded import REST, check_parts

__all__ = ["describe_damage", "find_resumable", "iteration_of"]

logger = logging.getLogger(__name__)


def find_resumable(folder: Path) -> Path:
    """Return the newest checkpoint of a run that can be read, from the last one backwards.

    The content of the chosen file is compared with the checksums in it, which takes about a second
    per gigabyte. A warning names the files that were passed over, and says what is wrong with each.

    Args:
        folder: output folder of the run, which contains ``last_checkpoint``.

    Raises:
        CheckpointFileError: none can be read; the message lists all of them.
    """
    marker = folder / LAST_CHECKPOINT
    name = marker.read_text(encoding="utf-8", errors="replace").strip()
    problems = [] if name else [f"{marker}: it is empty, but should name the last checkpoint"]
    for file in _candidates(folder, name):
        damage = describe_damage(file)
        if damage is None:
            if problems:
                logger.warning(
                    "The last checkpoint cannot be used:\n  %s\nThe one before is used instead: %s",
                    "\n  ".join(problems),
                    file,
                )
            return file
        problems.append(f"{file}: {damage}")
    raise CheckpointFileError(
        f"{marker} names {name or 'nothing'}, and no checkpoint in that folder can be used:\n  "
        + "\n  ".join(problems)
        + "\nRestore one of these files from a copy, or start a new run without --resume, which "
        "moves them to a folder of their own. With several machines the folder must be shared."
    )


def describe_damage(file: Path) -> str | None:
    """Say what is wrong with a checkpoint; None if it can be read.

    The content of a file of ``torch.save`` must be as it was written. PyTorch stores a checksum
    with each tensor, but does not compare it when it reads the file. The safetensors files in a
    folder (:mod:`vit_adapter.checkpoint.sharded`) have none: they must be complete.
    """
    if file.is_dir():
        damage = describe_damage(file / REST)
        return f"{REST}: {damage}" if damage else _describe_parts(file)
    try:
        size = file.stat().st_size
        if not size:
            return "it is empty (0 bytes)"
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except FileNotFoundError:
        return "it does not exist"
    except zipfile.BadZipFile as error:  # the directory of the archive is at its end
        return f"it is truncated or not a checkpoint ({size} bytes; {error})"
    # A damaged directory may also claim that the content is encrypted, or of an unknown kind.
    except (OSError, ValueError, RuntimeError, EOFError, zlib.error) as error:
        return f"it cannot be read ({error or type(error).__name__})"
    if damaged:
        return f"its content has changed (the checksum of {damaged} is wrong)"
    try:  # names and sizes have no checksums
        load_checkpoint_file(file, mapped=True)
    except CheckpointFileError as error:
        return str(error)
    return None


def _describe_parts(folder: Path) -> str | None:
    try:
        check_parts(folder, load_checkpoint_file(folder / REST))
    except ValueError as error:
        return str(error)
    return None


def iteration_of(file: Path) -> int | None:
    """Return the iteration in the name of a periodic checkpoint, None if it has no number."""
    number = file.stem.removeprefix("model_")
    return int(number) if number.isdigit() else None


def _candidates(folder: Path, name: str) -> list[Path]:
    """The named checkpoint, then older ones, newest first.

    Files with a higher number than the named one are left out: they may be of a run that was
    resumed from an earlier iteration.
    """
    named = folder / name
    limit = None if not name else iteration_of(named)
    found = (*folder.glob(CHECKPOINTS), *folder.glob(SHARDED_CHECKPOINTS))
    numbers = {file: iteration_of(file) for file in found}
    older = sorted(
        (number, file)
        for file, number in numbers.items()
        if number is not None and (limit is None or number < limit)
    )
    final = sorted(folder.glob(f"{Path(FINAL_CHECKPOINT).stem}.*"))
    return [*([named] if name else final), *(file for _, file in reversed(older))]
