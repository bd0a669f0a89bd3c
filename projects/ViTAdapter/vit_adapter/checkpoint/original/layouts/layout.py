"""The description of one kind of checkpoint, and rules that several kinds share."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from vit_adapter.checkpoint.original.rules import Rule

__all__ = ["Layout", "Made", "convolution", "find_numbers"]


class Made(NamedTuple):
    """A tensor of the original that no tensor of ours corresponds to.

    Attributes:
        tensor: its value.
        reason: where the value comes from, for messages.
    """

    tensor: Tensor
    reason: str


def _accept(state_dict: Mapping[str, Tensor]) -> None:
    """Find nothing wrong."""


def _make_nothing(state_dict: Mapping[str, Tensor]) -> dict[str, Made]:
    return {}


@dataclass(frozen=True)
class Layout:
    r"""One kind of checkpoint, with the original's names and ours.

    Attributes:
        name: for messages, such as "Mask R-CNN with FPN".
        tree: "detection" or "segmentation", the copy of the original's networks that it belongs
            to; "mask2former" for the code of Mask2Former's authors; None if it may be either of the
            first two. "dinov2" and "dinov3" are the segmentors of these models' authors.
        theirs: regular expression that matches the start of some name in the original's
            checkpoints of this kind, such as ``decode_head\.``.
        ours: the same for our checkpoints.
        example: one of the original's names of this kind, for messages and tests.
        rules: called with the names of a checkpoint, the original's or ours; returns the renaming
            rules.
        left_out: regular expressions that match the start of names, ours or the original's, that
            are not converted, each with the reason. A part of a tensor (``name@2/3``) that is left
            out on one side is filled with zeros on the other.
        check: called with a state dict under the original's names, before it is converted or after
            it was reverted; raises ValueError if the model is not one of this kind.
        made: called with a reverted state dict; returns what the original has in addition.
    """

    name: str
    tree: str | None
    theirs: str
    ours: str
    example: str
    rules: Callable[[Collection[str]], Sequence[Rule]]
    left_out: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Mapping[str, Tensor]], None] = _accept
    made: Callable[[Mapping[str, Tensor]], Mapping[str, Made]] = _make_nothing


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
