"""What a kind of checkpoint has to say about its names, and what several kinds share."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["Layout", "convolution", "find_numbers"]


@dataclass(frozen=True)
class Layout:
    r"""One kind of checkpoint of the original, and of this project.

    Attributes:
        name: for messages, such as "Mask R-CNN with FPN".
        tree: "detection" or "segmentation", the copy of the original's networks that it belongs
            to; None if it may be either.
        theirs: regular expression for the beginning of a name that tells the original's
            checkpoints of this kind, such as ``decode_head\.``.
        ours: the same for the names of this project.
        rules: called with the names of a checkpoint, the original's or ours; returns which is
            which.
    """

    name: str
    tree: str | None
    theirs: str
    ours: str
    rules: Callable[[Iterable[str]], Sequence[Rule]]


def convolution(theirs: str, ours: str) -> list[Rule]:
    """A convolution and the batch norm that may follow it, which Detectron2 keeps inside it."""
    return [
        Rule(f"{theirs}.conv.{{leaf}}", f"{ours}.{{leaf}}"),
        Rule(f"{theirs}.bn.{{leaf}}", f"{ours}.norm.{{leaf}}"),
    ]


def find_numbers(pattern: str, names: Iterable[str]) -> set[int]:
    """The numbers that the group of a pattern finds at the beginning of names."""
    return {int(found[1]) for name in names if (found := re.match(pattern, name))}
