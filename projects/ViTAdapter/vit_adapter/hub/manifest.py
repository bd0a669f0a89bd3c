"""The manifest of a portable folder: which files it has, and the hash of each.

It shows that a file was damaged or altered. It does not show who wrote the folder: whoever alters a
file can alter the manifest as well.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vit_adapter import __version__

__all__ = ["MANIFEST", "FolderError", "checked_files", "parse_json", "write_json", "write_manifest"]

MANIFEST = "manifest.json"
FORMAT = "vit_adapter.portable_model"
VERSION = 1
"""Number of the layout of the folder. A program reads its own and earlier ones."""

_BLOCK = 1 << 20
_WHAT_TO_DO = (
    "Get the folder again from where it came from. If the change is intended, make a new folder "
    "with tools/package_model.py, which takes changed settings as key=value overrides."
)


class FolderError(ValueError):
    """A portable folder that cannot be written or used; the message says what to do."""


def write_manifest(folder: Path, names: Iterable[str]) -> None:
    """Write the manifest of a folder whose files are complete.

    Args:
        folder: the folder.
        names: its files to list.
    """
    content = {
        "format": FORMAT,
        "format_version": VERSION,
        "vit_adapter": __version__,
        "files": {name: {"sha256": _hash(folder / name)} for name in names},
    }
    write_json(content, folder / MANIFEST)


def checked_files(folder: Path, required: Iterable[str]) -> dict[str, Path]:
    """Compare every file of a folder with its manifest.

    Files that the manifest does not list are not looked at.

    Args:
        folder: the folder.
        required: names that the manifest has to list.

    Returns:
        Name -> path of each listed file.

    Raises:
        FolderError: the manifest cannot be used, or a file is missing, outside the folder or
            altered.
    """
    hashes = _read_manifest(folder)
    absent = [name for name in required if name not in hashes]
    if absent:
        raise FolderError(
            f"{folder / MANIFEST} does not list {', '.join(absent)}, expected a complete portable "
            f"folder. {_WHAT_TO_DO}"
        )
    files = {name: _inside(folder, name) for name in hashes}
    for name, path in files.items():
        found = _hash(path)
        if found != hashes[name]:
            raise FolderError(
                f"{path} was altered or damaged: its SHA-256 is {found}, but {MANIFEST} expects "
                f"{hashes[name]}. {_WHAT_TO_DO}"
            )
    return files


def parse_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FolderError: it is not such a file.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # not JSON, or nested without an end
        raise FolderError(f"{path} is not a JSON file: {error}. {_WHAT_TO_DO}") from error
    if not isinstance(content, dict):
        raise FolderError(f"{path} holds a {type(content).__name__}, expected a JSON object.")
    return content


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON file that people can read."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")  # the same bytes on every system


def _read_manifest(folder: Path) -> dict[str, str]:
    """Return name -> SHA-256 of the files that the manifest of a folder lists."""
    path = _inside(folder, MANIFEST)
    content = parse_json(path)
    if content.get("format") != FORMAT:
        raise FolderError(
            f"{path} has the format {content.get('format')!r}, expected {FORMAT!r}: {folder} is "
            "not a portable folder of this project."
        )
    version = content.get("format_version")
    if type(version) is not int or version < 1:
        raise FolderError(f"{path} has format_version {version!r}, expected a whole number from 1.")
    if version > VERSION:
        raise FolderError(
            f"{path} has format_version {version}, but vit_adapter {__version__} reads up to "
            f"{VERSION}. Install a newer vit_adapter; the folder was written by version "
            f"{content.get('vit_adapter')}."
        )
    files = content.get("files")
    if not isinstance(files, dict):
        raise FolderError(f"{path} has no list of files. {_WHAT_TO_DO}")
    return {_checked_name(name, path): _stated_hash(files[name], name, path) for name in files}


def _checked_name(name: str, manifest: Path) -> str:
    """Refuse a name that is not that of a file directly in the folder."""
    if name in ("", ".", "..") or any(character in name for character in "/\\:\0"):
        raise FolderError(
            f"{manifest} lists the file {name!r}, expected names of files in the same folder. Do "
            "not use this folder unless you know why it has such a name."
        )
    return name


def _stated_hash(entry: object, name: str, manifest: Path) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
        raise FolderError(f"{manifest} has no sha256 for the file {name!r}. {_WHAT_TO_DO}")
    return entry["sha256"]


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file, which must exist and must not be a link that leaves the folder."""
    path = folder / name
    if not path.is_file():
        raise FolderError(f"{folder} has no file {name}, expected a portable folder. {_WHAT_TO_DO}")
    root = folder.resolve()
    real = path.resolve()
    roots = [root]
    if root.parent.name == "snapshots":  # the cache of huggingface_hub links to its own files
        roots.append(root.parents[1] / "blobs")
    if not any(allowed in real.parents for allowed in roots):
        raise FolderError(
            f"{path} is a link to {real}, outside the folder. Replace it by the file itself if you "
            "know where it comes from."
        )
    return path


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
