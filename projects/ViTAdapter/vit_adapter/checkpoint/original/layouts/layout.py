"""The description of one kind of checkpoint, and rules that several kinds share."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["Layout", "convolution", "find_numbers"]


@dataclass(frozen=True)
class Layout:
    r"""One kind of checkpoint, with the original's names and ours.

    Attributes:
        name: for messages, such as "Mask R-CNN with FPN".
        tree: "detection" or "segmentation", the copy of the original's networks that it belongs
            to; "mask2former" for the code of Mask2Former's authors; None if it may be either of the
            first two.
        theirs: regular expression that matches the start of some name in the original's
            checkpoints of this kind, such as ``decode_head\.``.
        ours: the same for our checkpoints.
        example: one of the original's names of this kind, for messages and tests.
        rules: called with the names of a checkpoint, the original's or ours; returns the renaming
            rules.
        left_out: regular expressions that match the start of names, ours or the original's, that
            are not converted, each with the reason.
    """

    name: str
    tree: str | None
    theirs: str
    ours: str
    example: str
    rules: Callable[[Collection[str]], Sequence[Rule]]
    left_out: Mapping[str, str] = field(default_factory=dict)


def convolution(theirs: str, ours: str, *, norm: str = "bn") -> list[Rule]:
    """Rules for a convolution and an optional norm, where Detectron2 keeps the norm inside it.

    The towers of Detectron2's dense heads do not: their norms have numbers of their own. ``norm``
    is the original's name of the norm: "bn" for a batch norm, "gn" for a group norm.
    """
    return [
        Rule(f"{theirs}.conv.{{leaf}}", f"{ours}.{{leaf}}"),
        Rule(f"{theirs}.{norm}.{{leaf}}", f"{ours}.norm.{{leaf}}"),
    ]


def find_numbers(pattern: str, names: Iterable[str]) -> set[int]:
    """The numbers that the pattern's group captures at the start of names."""
    return {int(found[1]) for name in names if (found := re.match(pattern, name))}
