"""The readers of pre-trained ViTs: finding the one for a trunk, and recognising a file's family."""

import re
from collections.abc import Iterable

from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.checkpoint.files import CheckpointFileError
from vit_adapter.checkpoint.pretrained.reader import Reader

__all__ = ["find_reader", "refuse_other_families", "register"]

_READERS: dict[type[ViTTrunk], Reader] = {}


def register(reader: Reader) -> None:
    """Register a reader; its module calls this when the package imports it."""
    _READERS[reader.trunk] = reader


def find_reader(vit: ViTTrunk) -> Reader:
    """Return the reader for a trunk's class, or for the nearest of its base classes.

    Raises:
        ValueError: there is none.
    """
    for cls in type(vit).__mro__:
        if cls in _READERS:
            return _READERS[cls]
    known = ", ".join(cls.__name__ for cls in _READERS)
    raise ValueError(
        f"there is no reader of pre-trained weights for a {type(vit).__name__}, only for {known}. "
        "Give the weights of the whole model instead (train.init_checkpoint)."
    )


def refuse_other_families(names: Iterable[str], trunk: type[ViTTrunk], source: str) -> None:
    """Make sure that a checkpoint belongs to the family of the trunk.

    Args:
        names: names of the checkpoint's parameters.
        trunk: class of the trunk that the calling reader is for.
        source: name of the file, for messages.

    Raises:
        CheckpointFileError: it belongs to another family, or is not a ViT.
    """
    names = list(names)
    for reader in sorted(_READERS.values(), key=lambda reader: reader.marks_are_shared):
        family = _recognise(reader, names)
        if family is None:
            continue
        if reader.trunk is trunk:
            return
        raise CheckpointFileError(
            f"checkpoint {source!r} holds {family}, but the model has a {trunk.__name__}. Nothing "
            f"was loaded. Build the model with a {reader.trunk.__name__} as its vit, or choose "
            "other weights."
        )
    raise CheckpointFileError(
        f"checkpoint {source!r} holds no known plain ViT. Its first names are "
        f"{', '.join(names[:5])}. For the checkpoint of a whole detector use train.init_checkpoint."
    )


def _recognise(reader: Reader, names: Iterable[str]) -> str | None:
    """What a file with these names holds; None if no mark of the reader matches."""
    for mark, family in reader.marks.items():
        if any(re.search(mark, name) for name in names):
            return family
    return None
