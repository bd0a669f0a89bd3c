"""The description of how the checkpoints of one family of pre-trained ViTs are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.checkpoint.files import CheckpointFileError
from vit_adapter.checkpoint.loading import LoadReport, ResizedEntry

__all__ = ["Reader", "TrunkWeights", "rename_all"]


@dataclass(frozen=True)
class TrunkWeights:
    """The weights of a file under the names of a trunk.

    Attributes:
        state_dict: all tensors of the file, under the trunk's names where the trunk has them.
        resized: the tensors whose shape was changed to that of the trunk.
    """

    state_dict: dict[str, Tensor]
    resized: tuple[ResizedEntry, ...] = ()


@dataclass(frozen=True)
class Reader:
    """How the checkpoints of one family become the weights of its trunk.

    Attributes:
        trunk: the class of trunk that the reader is for.
        marks: regular expression, searched for in a file's names to recognise the family -> what
            the file then holds, such as "a plain ViT".
        adapt: called with the trunk, the state dict of a file and the file's name for messages. It
            renames, reshapes and resizes tensors, and drops only those that follow from others.
            Raises ``CheckpointFileError`` if the file belongs to another family.
        passed_over: regular expressions of names in such files that are not weights of the trunk.
        not_pretrained: regular expressions of the trunk's names that such files do not have; these
            parameters keep their initial values.
        advise: called with the trunk and the mismatches that neither list covers; returns a
            sentence on what the user can do.
        marks_are_shared: whether files of other families have such names too; these marks are
            looked for last.
    """

    trunk: type[ViTTrunk]
    marks: Mapping[str, str]
    adapt: Callable[[ViTTrunk, dict[str, Tensor], str], TrunkWeights]
    passed_over: tuple[str, ...]
    not_pretrained: tuple[str, ...]
    advise: Callable[[ViTTrunk, LoadReport], str]
    marks_are_shared: bool = False


def rename_all(
    state_dict: Mapping[str, Tensor], rename: Callable[[str], str], source: str
) -> dict[str, Tensor]:
    """Rename every tensor of the file ``source``.

    Raises:
        CheckpointFileError: two of them would get the same name, so one would be lost.
    """
    renamed: dict[str, Tensor] = {}
    old_names: dict[str, str] = {}
    for old, value in state_dict.items():
        new = rename(old)
        if new in renamed:
            raise CheckpointFileError(
                f"checkpoint {source!r} has both {old_names[new]!r} and {old!r}, which are two "
                f"spellings of {new!r}; remove one of them."
            )
        renamed[new], old_names[new] = value, old
    return renamed
