"""Whether a tool may write its output file."""

import tempfile
from pathlib import Path


def check_output_file(
    source: Path, target: Path, *, suffixes: tuple[str, ...], force: bool
) -> None:
    """Refuse an output ``OUT`` that cannot or should not be written.

    Args:
        source: the input ``IN``, which is never replaced.
        target: the file to write.
        suffixes: endings that its name may have.
        force: whether it may replace a file.

    Raises:
        ValueError, FileExistsError, FileNotFoundError: the message says why.
    """
    if not target.name.endswith(suffixes):
        raise ValueError(f"OUT must end in {' or '.join(suffixes)}, got {target}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} of OUT does not exist")
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"IN and OUT are the same file, {target}; IN is never replaced")
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists; choose another name, or replace it with --force")


def check_writable(target: Path) -> None:
    """Refuse a file that cannot be written after long work, before the work; make its folder.

    Raises:
        OSError: the message names it and says why.
    """
    try:
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise OSError(f"{target} cannot be written ({error}); choose another file") from error
