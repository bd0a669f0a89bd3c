"""What a family of pre-trained ViTs has to say about its checkpoints."""

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
        state_dict: what the file holds, what the trunk lacks included, under the trunk's names.
        resized: the tensors whose shape was changed to that of the trunk.
    """

    state_dict: dict[str, Tensor]
    resized: tuple[ResizedEntry, ...] = ()


@dataclass(frozen=True)
class Reader:
    """How the checkpoints of one family become the weights of its trunk.

    Attributes:
        trunk: the class of the trunks that it is for.
        marks: regular expressions that are searched for in a file's names to recognise the family,
            and what the file holds then, such as "a plain ViT".
        adapt: called with the trunk, the state dict of a file and the file's name for messages;
            renames, reshapes and resizes, but drops only what is computed from the rest.
            Raises ``CheckpointFileError`` if the file is of another family.
        passed_over: regular expressions of what such files hold besides a trunk's weights.
        not_pretrained: regular expressions of what a trunk has besides such files' weights; it
            keeps its initial values.
        advise: called with the trunk and the mismatches that neither list covers; says what the
            user can do.
        marks_are_shared: whether files of other families have such names too; then these are
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
        CheckpointFileError: two of them would get the same name, so one of them would be lost.
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
