"""Finds what is missing in a download before anything is converted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vit_adapter.data.semantic.sets.definition import Split

_NUM_EXAMPLES = 3


class PreparationError(ValueError):
    """A download is incomplete; the message says what is missing and where to get it."""


def split_names(split: Split) -> list[str]:
    """Return the sorted names of a split: those of its list, or of all images in its folder."""
    if split.names_file is not None:
        return sorted(split.listed_names())
    return sorted(_names(split.images, split.image_suffix))


def check_download(
    splits: Iterable[Split], root: Path, *, title: str, layout: str, allow_subset: bool = False
) -> None:
    """Raise a PreparationError that lists what is missing, if anything is.

    Args:
        splits: those of the data set, with paths below the data root.
        root: the data root.
        title: name of the data set.
        layout: the folders that must exist below the data root.
        allow_subset: do not compare the numbers of images with the official ones.
    """
    problems = [p for split in splits for p in find_problems(split, allow_subset=allow_subset)]
    if problems:
        lines = "\n  ".join(dict.fromkeys(problems))
        raise PreparationError(
            f"{title} is incomplete in {root}:\n  {lines}\nExpected below that folder: {layout}"
        )


def find_problems(split: Split, *, allow_subset: bool = False) -> list[str]:
    """Check that a split of a download is complete.

    Args:
        split: the split, with paths below the data root.
        allow_subset: do not compare the number of images with the official one.

    Returns:
        One line for each problem; empty if the split can be converted.
    """
    wanted = [(split.images, split.image_origin), (split.official, split.label_origin)]
    problems = [
        f"{split.title}: the folder {folder} does not exist; it comes with {origin}"
        for folder, origin in wanted
        if not folder.is_dir()
    ]
    if split.names_file is not None and not split.names_file.is_file():
        problems.append(
            f"{split.title}: the list {split.names_file} does not exist; "
            f"it comes with {split.image_origin}"
        )
    if problems:
        return problems
    names = split_names(split)
    if not names:
        files = f"*{split.image_suffix}"
        return [f"{split.title}: {split.images} has no {files}; get {split.image_origin}"]
    problems = _missing(
        split, names, split.images, split.image_suffix, "images", split.image_origin
    )
    problems += _missing(
        split, names, split.official, split.official_suffix, "label files", split.label_origin
    )
    if len(names) != split.count and not allow_subset:
        problems.append(
            f"{split.title}: there are {len(names):,} images instead of {split.count:,}; get "
            f"{split.image_origin} (or use --allow-subset to prepare only these)"
        )
    return problems


def _missing(
    split: Split, names: Iterable[str], folder: Path, suffix: str, kind: str, origin: str
) -> list[str]:
    existing = set(_names(folder, suffix))
    missing = [f"{name}{suffix}" for name in names if name not in existing]
    if not missing:
        return []
    more = ", ..." if len(missing) > _NUM_EXAMPLES else ""
    return [
        f"{split.title}: {kind} missing in {folder} ({len(missing):,}): "
        f"{', '.join(missing[:_NUM_EXAMPLES])}{more}; get {origin}"
    ]


def _names(folder: Path, suffix: str) -> list[str]:
    """Return the names of all files below a folder that end in ``suffix``, except hidden ones."""
    return [
        path.relative_to(folder).as_posix().removesuffix(suffix)
        for path in folder.rglob(f"*{suffix}")
        if not path.name.startswith(".")
    ]
