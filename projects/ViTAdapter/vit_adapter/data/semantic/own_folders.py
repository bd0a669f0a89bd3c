"""Registers custom semantic labels: two folders and the names of the classes."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.utils.colormap import colormap

from vit_adapter.data.semantic.label_checks import MAX_CLASSES, check_label_files
from vit_adapter.data.semantic.label_folders import find_label_pairs
from vit_adapter.data.semantic.sets.label_set import IGNORE_LABEL

NUM_CHECKED = 16  # pairs that are read before training starts


def register_label_folders(
    name: str,
    image_root: str | os.PathLike[str],
    label_root: str | os.PathLike[str],
    classes: Sequence[str],
    *,
    check_all: bool = False,
    image_format: str | int = "RGB",
) -> Metadata:
    """Check two folders and register them in Detectron2's catalogs.

    Label maps have one channel of class indices from 0, and 255 for pixels that do not count. (For
    a palette, the entries are the labels, not its colours.) All names are compared, but only some
    files are read unless ``check_all`` is set; the rest is checked when it is loaded.

    Args:
        name: for configs, such as ``"streets_train"``; must not be in use.
        image_root: folder of the images.
        label_root: folder of the label maps, named like the images apart from the file
            extension.
        classes: class names, in the order of the labels.
        check_all: read every image and label map, with a progress bar.
        image_format: as for ``read_image``.

    Returns:
        The metadata: ``stuff_classes``, ``stuff_colors``, ``image_root``, ``sem_seg_root``,
        ``ignore_label`` and ``evaluator_type``.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: there are images without labels or vice versa, no files at all, different
            sizes, or labels that no class has.
    """
    image_root, label_root = Path(image_root).absolute(), Path(label_root).absolute()
    records = find_label_pairs(image_root, label_root)
    most = None if check_all else NUM_CHECKED
    check_label_files(records, len(classes), most=most, image_format=image_format)
    DatasetCatalog.register(name, partial(copy.deepcopy, records))
    return MetadataCatalog.get(name).set(
        image_root=str(image_root),
        sem_seg_root=str(label_root),
        evaluator_type="sem_seg",
        ignore_label=IGNORE_LABEL,
        stuff_classes=list(classes),
        stuff_colors=default_colors(len(classes)),
    )


def read_class_names(classes: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    """Return the names of classes given as a list or as a JSON file.

    Args:
        classes: names in the order of the labels, or a JSON file with such a list or with
            ``{"classes": [...]}``.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: there are no names, or the content is not as described above.
    """
    source = "The list of classes"
    if isinstance(classes, str | os.PathLike):
        source = os.fspath(classes)
        classes = _read_class_file(Path(classes))
    classes = list(classes)
    if not classes or not all(isinstance(name, str) and name for name in classes):
        raise ValueError(f"{source} must hold the names of the classes as strings, got {classes}.")
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if repeated:
        raise ValueError(f"{source} has the names {', '.join(repeated)} more than once.")
    if len(classes) > MAX_CLASSES:
        raise ValueError(
            f"{source} has {len(classes)} classes, but at most {MAX_CLASSES} are supported."
        )
    return classes


def default_colors(count: int) -> list[tuple[int, int, int]]:
    """Return RGB colours (0 to 255) for classes without colours; they repeat after about 70."""
    palette = colormap(rgb=True, maximum=255).astype(int).tolist()
    distinct = list(dict.fromkeys(map(tuple, palette)))
    return [distinct[i % len(distinct)] for i in range(count)]


def _read_class_file(path: Path) -> Sequence[str]:
    if not path.is_file():
        raise FileNotFoundError(
            f"The file of classes {path} does not exist. Put a list of names in brackets: [a,b]."
        )
    try:
        content = json.loads(path.read_bytes())  # recognises the encoding
    except ValueError as error:  # not JSON, or not text
        raise ValueError(f"{path} is not a JSON file of classes: {error}.") from error
    if isinstance(content, dict):
        ignored = content.get("ignore_label", IGNORE_LABEL)
        if ignored != IGNORE_LABEL:
            raise ValueError(
                f"{path} has ignore_label {ignored!r}, but pixels that do not count must have the "
                f"label {IGNORE_LABEL}. Convert the label maps."
            )
        content = content.get("classes")
    if not isinstance(content, list):
        raise ValueError(
            f'{path} must hold a list of names, or {{"classes": [...]}} with such a list.'
        )
    return content
