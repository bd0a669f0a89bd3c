"""The folder of a feature cache, and the file in it that says what the features were made with."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_adapter.utils.atomic import TEMPORARY_MARK, atomic_open

__all__ = ["check_folder", "claim_folder", "free_bytes"]

_DESCRIPTION = "feature_cache.json"
_REMEDY = (
    "Give another folder in train.feature_cache.dir, or delete this one if the features in it are "
    "no longer needed."
)


def check_folder(folder: Path, trunk: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Check that the features in a folder were made by the same ViT; nothing is written.

    Args:
        folder: the folder of a cache; it need not exist.
        trunk: what the features depend on apart from the images; JSON values.

    Returns:
        The ``data`` that :func:`claim_folder` stored; None for a new cache.

    Raises:
        ValueError: the folder holds something else, or the features of another ViT; the message
            names both sides.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise ValueError(f"train.feature_cache.dir={folder} is a file, expected a folder.")
    file = folder / _DESCRIPTION
    if not file.exists():
        if any(TEMPORARY_MARK not in entry.name for entry in folder.iterdir()):
            raise ValueError(
                f"The folder {folder} is not empty, but has no {_DESCRIPTION}, so it is not a "
                "feature cache. Give an empty or new folder in train.feature_cache.dir."
            )
        return None
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        theirs, data = stored["trunk"], stored["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error!r}. {_REMEDY}") from error
    if differences := _differences(theirs, json.loads(json.dumps(trunk))):
        raise ValueError(
            f"The feature cache in {folder} belongs to another ViT ({'; '.join(differences)}). "
            f"{_REMEDY}"
        )
    return data


def claim_folder(folder: Path, trunk: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Create the folder if necessary, and write down what its features are made with.

    Args:
        folder: a folder that :func:`check_folder` accepts.
        trunk: see :func:`check_folder`.
        data: which images and views are stored; JSON values.

    Raises:
        OSError: the folder cannot be created or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_open(folder / _DESCRIPTION) as stream:
        json.dump({"trunk": trunk, "data": data}, stream, indent=2)


def free_bytes(folder: Path) -> int:
    """The free space on the disk of a folder, which need not exist yet."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Name both values of each entry in which two descriptions differ."""
    return [
        f"{name}: {_shorten(theirs.get(name))} in the cache, {_shorten(ours.get(name))} in this run"
        for name in dict.fromkeys([*theirs, *ours])
        if theirs.get(name) != ours.get(name)
    ]


def _shorten(value: object) -> str:
    """The first part of a long hash; other values in full."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else json.dumps(value)
