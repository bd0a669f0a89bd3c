"""Semantic labels as two folders: images, and label maps with the same names.

A name is the path below the folder without the file extension: ``a/b.jpg`` and ``a/b.png`` belong
together. Only names are compared here, so a data set of 100,000 images takes a second;
``label_checks`` reads the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vit_adapter.data.image_files import IMAGE_SUFFIXES

LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm")  # no JPEG: it changes values

_NUM_EXAMPLES = 5


def find_label_pairs(
    image_root: str | os.PathLike[str],
    label_root: str | os.PathLike[str],
    *,
    names: Iterable[str] | None = None,
    image_suffixes: Iterable[str] = IMAGE_SUFFIXES,
    label_suffixes: Iterable[str] = LABEL_SUFFIXES,
    advice: str = "",
) -> list[dict[str, str]]:
    """Match images and label maps by their names.

    Args:
        image_root: folder of the images, including sub-folders but not hidden files.
        label_root: folder of the label maps.
        names: the names to use; both folders may then hold other files. By default all names are
            used, and each file needs its partner.
        image_suffixes: endings of the images' file names that do not belong to the name, in lower
            case, such as ".jpg" or "_photo.jpg". Files without such an ending do not count.
        label_suffixes: the same for the label maps.
        advice: ends every error message.

    Returns:
        A record for each pair, sorted by name, with ``file_name`` and ``sem_seg_file_name``.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: a folder has no files, a file has no partner, or two files have the same name.
    """
    images = _files_by_name(Path(image_root), tuple(image_suffixes), "image", advice)
    labels = _files_by_name(Path(label_root), tuple(label_suffixes), "label", advice)
    wanted = sorted(images.keys() | labels.keys()) if names is None else sorted(set(names))
    for found, folder, other, kind in (
        (images, image_root, label_root, "image"),
        (labels, label_root, image_root, "label map"),
    ):
        missing = [name for name in wanted if name not in found]
        if missing:
            partner = f" of its partner in {other}" if names is None else ""
            raise ValueError(
                f"{len(missing)} of {len(wanted)} {kind}s are missing in {folder}: "
                f"{_examples(missing)}. Each needs the name{partner}, apart from the "
                f"file extension. {advice}"
            )
    return [{"file_name": images[name], "sem_seg_file_name": labels[name]} for name in wanted]


def _files_by_name(
    folder: Path, suffixes: tuple[str, ...], kind: str, advice: str
) -> dict[str, str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"The {kind} folder {folder} does not exist. {advice}")
    files: dict[str, str] = {}
    for path in _walk(str(folder)):
        suffix = next((end for end in suffixes if path.lower().endswith(end)), None)
        if suffix is None:
            continue
        name = os.path.relpath(path[: -len(suffix)], folder).replace(os.sep, "/")
        if name in files:
            raise ValueError(
                f"{files[name]} and {path} differ only in the file extension, so it is not clear "
                f"which one to use. Remove one. {advice}"
            )
        files[name] = path
    if not files:
        raise ValueError(
            f"The {kind} folder {folder} has no file that ends in {', '.join(suffixes)}. {advice}"
        )
    return files


def _walk(folder: str) -> Iterator[str]:
    """Yield all files below a folder except hidden ones, which some systems add for each file."""
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path)
        else:
            yield entry.path


def _examples(names: list[str]) -> str:
    more = ", ..." if len(names) > _NUM_EXAMPLES else ""
    return ", ".join(names[:_NUM_EXAMPLES]) + more
