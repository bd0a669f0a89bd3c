"""The files of a portable folder, and writing and reading them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vit_adapter.checkpoint.large import save_safetensors
from vit_adapter.hub.manifest import (
    MANIFEST,
    checked_files,
    parse_json,
    write_json,
    write_manifest,
)
from vit_adapter.hub.targets import with_targets
from vit_adapter.utils.atomic import atomic_folder, publish_folder, temporary_path

__all__ = ["ALL_FILES", "FolderContents", "is_portable", "read_folder", "write_folder"]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CLASSES = "classes.json"
PREPROCESSING = "preprocessing.json"
METRICS = "metrics.json"
CARD = "README.md"
LICENCE = "LICENSE.md"

_CHECKED = (WEIGHTS, CONFIG, CLASSES, PREPROCESSING, METRICS)
ALL_FILES = (MANIFEST, *_CHECKED, CARD, LICENCE)
"""Everything that belongs to a folder. The texts for people, which are not in the manifest, may be
edited."""


@dataclass(frozen=True)
class FolderContents:
    """What a portable folder holds.

    Attributes:
        config: ``model``, ``dataloader``, ``data``, ``test`` and ``task`` of a config, as plain
            values without interpolations. Read from a folder, ``_target_`` is what is called; to be
            written, it is its name.
        classes: names and RGB colours, 0 to 255, under ``thing_classes``, ``thing_colors``,
            ``stuff_classes`` and ``stuff_colors`` as in Detectron2's metadata, and pairs of
            category id and class index under ``thing_dataset_id_to_contiguous_id`` and
            ``stuff_dataset_id_to_contiguous_id``; without what is unknown.
        preprocessing: ``pixel_mean`` and ``pixel_std`` of the model's input, in its colour order.
        metrics: task -> metric -> value, as in ``results.json``; empty if unknown.
        weights: path of the weights; None before they are written.
    """

    config: dict[str, Any]
    classes: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None


def is_portable(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder has the manifest of a portable folder."""
    return os.path.lexists(os.path.join(folder, MANIFEST))


def write_folder(
    folder: str | os.PathLike[str],
    contents: FolderContents,
    weights: Mapping[str, Tensor],
    *,
    card: str,
    licence: str,
    force: bool = False,
) -> Path:
    """Write a portable folder, which appears under its name only when it is complete.

    Args:
        folder: a new name, or an empty folder; its parents are created.
        contents: everything but the weights.
        weights: name -> tensor of the whole model.
        card: text of the model card.
        licence: text of the licence note.
        force: replace a portable folder of this name.

    Returns:
        The folder.

    Raises:
        FolderError: the config uses what a portable folder may not use.
        FileExistsError: the name is taken.
        OSError: the folder cannot be written.
    """
    with_targets(contents.config)
    path = Path(os.path.abspath(os.fspath(folder)))
    replaces = _check_name(path, force=force)
    temporary = temporary_path(path) if replaces else path
    with atomic_folder(temporary) as unfinished:
        save_safetensors(weights, unfinished / WEIGHTS, {"format": "pt"})
        write_json(contents.config, unfinished / CONFIG)
        write_json(contents.classes, unfinished / CLASSES)
        write_json(contents.preprocessing, unfinished / PREPROCESSING)
        write_json(contents.metrics, unfinished / METRICS)
        (unfinished / CARD).write_text(card, encoding="utf-8", newline="\n")
        (unfinished / LICENCE).write_text(licence, encoding="utf-8", newline="\n")
        write_manifest(unfinished, _CHECKED)
        # safetensors lets only the owner read its files.
        (unfinished / WEIGHTS).chmod((unfinished / CONFIG).stat().st_mode)
    if replaces:
        publish_folder(temporary, path)
    return path


def read_folder(folder: str | os.PathLike[str]) -> FolderContents:
    """Read a portable folder, except for its weights, and compare all files with its manifest.

    Raises:
        FolderError: it is not a complete, unaltered portable folder that this version can read, or
            its config uses what a portable folder may not use.
    """
    files = checked_files(Path(folder), _CHECKED)
    config, classes, preprocessing, metrics = (
        parse_json(files[name]) for name in (CONFIG, CLASSES, PREPROCESSING, METRICS)
    )
    return FolderContents(
        with_targets(config), classes, preprocessing, metrics, files[WEIGHTS].absolute()
    )


def _check_name(path: Path, *, force: bool) -> bool:
    """Return whether a folder has to be replaced.

    Raises:
        FileExistsError: there is one that must not be.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return False
    if not (path.is_dir() and is_portable(path)):
        raise FileExistsError(f"{path} exists and is not a portable folder; choose another name.")
    if not force:
        raise FileExistsError(
            f"{path} is a portable folder already; choose another name, or replace it with --force "
            "(force=True)."
        )
    return True
