"""The readers of pre-trained ViTs: which is for a trunk, and whose names a file has."""

import re
from collections.abc import Iterable

from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.checkpoint.files import CheckpointFileError
from vit_adapter.checkpoint.pretrained.reader import Reader

__all__ = ["find_reader", "refuse_other_families", "register"]

_READERS: dict[type[ViTTrunk], Reader] = {}


def register(reader: Reader) -> None:
    """Make a reader known; its module does so, and the package imports the module."""
    _READERS[reader.trunk] = reader


def find_reader(vit: ViTTrunk) -> Reader:
    """Return the reader for a trunk's class, or for the nearest class that it derives from.

    Raises:
        ValueError: there is none.
    """
    for cls in type(vit).__mro__:
        if cls in _READERS:
            return _READERS[cls]
    known = ", ".join(cls.__name__ for cls in _READERS)
    raise ValueError(
        f"no reader of pre-trained weights is known for a {type(vit).__name__}; there are readers "
        f"for {known}. Give the weights of the whole model instead (train.init_checkpoint)."
    )


def refuse_other_families(names: Iterable[str], trunk: type[ViTTrunk], source: str) -> None:
    """Make sure that a checkpoint's names are those of the family that a trunk belongs to.

    Args:
        names: of the parameters.
        trunk: class of the trunk that the calling reader is for.
        source: the file, for the message.

    Raises:
        CheckpointFileError: they are another's, or those of no ViT.
    """
    names = list(names)
    for reader in sorted(_READERS.values(), key=lambda reader: reader.marks_are_shared):
        family = _recognise(reader, names)
        if family is None:
            continue
        if reader.trunk is trunk:
            return
        raise CheckpointFileError(
            f"checkpoint {source!r} holds {family}, the model a {trunk.__name__}; nothing was "
            f"loaded. Build the model with a {reader.trunk.__name__} as its vit, or choose other "
            "weights."
        )
    raise CheckpointFileError(
        f"checkpoint {source!r} holds no plain ViT that is known here. The first names are "
        f"{', '.join(names[:5])}. For the checkpoint of a whole detector use train.init_checkpoint."
    )


def _recognise(reader: Reader, names: Iterable[str]) -> str | None:
    """What a file with these names holds; None if they bear none of the reader's marks."""
    for mark, family in reader.marks.items():
        if any(re.search(mark, name) for name in names):
            return family
    return None
