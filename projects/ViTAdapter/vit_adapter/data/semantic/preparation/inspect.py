"""Says what is missing in a download, before anything is converted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vit_adapter.data.semantic.preparation.convert import Part

_NUM_EXAMPLES = 3


class PreparationError(ValueError):
    """A download is incomplete; the message says what is missing and where to get it."""


def part_names(part: Part) -> list[str]:
    """Return the sorted names of a part: those of its list, or of all images in its folder."""
    if part.names_file is not None:
        return sorted(part.names_file.read_text(encoding="utf-8").split())
    return sorted(_names(part.images, part.image_suffix))


def find_problems(part: Part, *, allow_subset: bool = False) -> list[str]:
    """Compare a part of a download with what it should be.

    Args:
        part: what to look at.
        allow_subset: do not compare the number of images with the official one.

    Returns:
        One line for each thing that is missing; empty if the part can be converted.
    """
    wanted = [(part.images, part.image_origin), (part.labels, part.label_origin)]
    problems = [
        f"{part.name}: there is no folder {folder}; it comes with {origin}"
        for folder, origin in wanted
        if not folder.is_dir()
    ]
    if part.names_file is not None and not part.names_file.is_file():
        problems.append(
            f"{part.name}: there is no list {part.names_file}; it comes with {part.image_origin}"
        )
    if problems:
        return problems
    names = part_names(part)
    if not names:
        files = f"*{part.image_suffix}"
        return [f"{part.name}: {part.images} holds no {files}; get {part.image_origin}"]
    problems = _missing(part, names, part.images, part.image_suffix, "images", part.image_origin)
    problems += _missing(
        part, names, part.labels, part.label_suffix, "label files", part.label_origin
    )
    if len(names) != part.count and not allow_subset:
        problems.append(
            f"{part.name}: there are {len(names):,} images instead of {part.count:,}; get "
            f"{part.image_origin} (--allow-subset prepares what is there)"
        )
    return problems


def _missing(
    part: Part, names: Iterable[str], folder: Path, suffix: str, kind: str, origin: str
) -> list[str]:
    there = set(_names(folder, suffix))
    lacking = [f"{name}{suffix}" for name in names if name not in there]
    if not lacking:
        return []
    more = ", ..." if len(lacking) > _NUM_EXAMPLES else ""
    return [
        f"{part.name}: {len(lacking):,} {kind} are missing in {folder}: "
        f"{', '.join(lacking[:_NUM_EXAMPLES])}{more}; get {origin}"
    ]


def _names(folder: Path, suffix: str) -> list[str]:
    """Return the names of all files below a folder that end in ``suffix``, hidden ones not."""
    return [
        path.relative_to(folder).as_posix().removesuffix(suffix)
        for path in folder.rglob(f"*{suffix}")
        if not path.name.startswith(".")
    ]
