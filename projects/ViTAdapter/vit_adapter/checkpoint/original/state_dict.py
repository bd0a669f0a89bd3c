"""State dicts of the original as ours, and back.

Tensors are shared, never copied or changed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from torch import Tensor

from vit_adapter.checkpoint.original.layouts import (
    KNOWN_MODELS,
    UNSUPPORTED,
    layout_of_ours,
    layout_of_theirs,
)
from vit_adapter.checkpoint.original.layouts.layout import find_numbers
from vit_adapter.checkpoint.original.relative_index import with_relative_indexes
from vit_adapter.checkpoint.original.rules import Renamer

__all__ = ["Conversion", "convert", "convert_state_dict", "revert", "revert_state_dict"]

_IGNORED = {
    r"ema_\w+$": "the training's copy of another tensor (moving average)",
    r"(backbone\.)?blocks\.\d+\.attn\.relative_position_index$": "follows from the window's size",
}
"""Buffers of the original that no model needs, by pattern, and what they are."""


@dataclass(frozen=True)
class Conversion:
    """A renamed state dict and what became of each name.

    Attributes:
        state_dict: new name -> tensor. Towards the original also the indexes of BEiT's bias tables,
            which this project does without.
        names: old name -> new name, in the order of the old state dict.
        dropped: old names that have no place in the new state dict -> why.
    """

    state_dict: dict[str, Tensor]
    names: dict[str, str]
    dropped: dict[str, str]


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of :func:`convert` alone."""
    return convert(state_dict).state_dict


def revert_state_dict(
    state_dict: Mapping[str, Tensor], *, tree: str | None = None
) -> dict[str, Tensor]:
    """The state dict of :func:`revert` alone."""
    return revert(state_dict, tree=tree).state_dict


def convert(state_dict: Mapping[str, Tensor]) -> Conversion:
    """Rename the original's parameters and buffers to ours.

    Args:
        state_dict: of a backbone alone, of the backbone part of a detector (all names begin with
            ``backbone.``), or of a whole model that has a layout (see ``layouts``).

    Returns:
        the state dict for :func:`build_backbone`'s result or, where the names begin with
        ``backbone.``, for a Detectron2 model: a detector with that backbone as
        ``backbone.bottom_up``, a segmentor with it as ``backbone``.

    Raises:
        ValueError: parts that this project has nothing for, names that belong to no known part
            (all of them are listed), two names that become one, or values that are no tensors.
    """
    renamer = Renamer(layout_of_theirs(state_dict).rules(state_dict))
    dropped = {}
    for name in state_dict:
        reason = _first(_IGNORED, name)
        if reason is not None:
            dropped[name] = reason
    return _rename(state_dict, renamer.to_ours, _describe_theirs, dropped)


def revert(state_dict: Mapping[str, Tensor], *, tree: str | None = None) -> Conversion:
    """Rename our parameters and buffers to the original's: the opposite of :func:`convert`.

    Args:
        state_dict: of our backbone, or of a Detectron2 model as :func:`convert` expects it.
        tree: "detection" for a Mask2Former of the original's detectors, which segment panoptically
            and call the head otherwise than the segmentors do. Other models need none.

    Raises:
        ValueError: names that the original has nothing for (all of them are listed), an adapter
            of another mode than "full", or values that are no tensors.
    """
    renamer = Renamer(layout_of_ours(state_dict, tree).rules(state_dict))
    conversion = _rename(state_dict, renamer.to_theirs, _describe_ours)
    _check_injectors(conversion.state_dict)
    return replace(conversion, state_dict=with_relative_indexes(conversion.state_dict))


def _rename(
    state_dict: Mapping[str, Tensor],
    rename: Callable[[str], str | None],
    describe: Callable[[Sequence[str]], str],
    dropped: Mapping[str, str] = MappingProxyType({}),
) -> Conversion:
    names, unknown, renamed = {}, [], {}
    for name, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"expected a tensor for every key, got {type(value).__name__} for {name!r}"
            )
        if name in dropped:
            continue
        new = rename(name)
        if new is None:
            unknown.append(name)
            continue
        if new in renamed:
            raise ValueError(f"{name!r} and another key would both become {new!r}")
        names[name] = new
        renamed[new] = value
    if unknown:
        raise ValueError(describe(unknown))
    return Conversion(renamed, names, dict(dropped))


def _describe_theirs(names: Sequence[str]) -> str:
    """Group names by the part of the original that they belong to."""
    parts: dict[str | None, list[str]] = {}
    for name in names:
        parts.setdefault(_first(UNSUPPORTED, name), []).append(name)
    strangers = parts.pop(None, [])
    lines = [
        f"{part} is not supported by this project: {len(of_part)} keys: {', '.join(of_part)}"
        for part, of_part in parts.items()
    ]
    if strangers:
        lines.append(
            f"{len(strangers)} keys belong to no known part of a ViT-Adapter model: "
            f"{', '.join(strangers)}; known of the original are: {KNOWN_MODELS}"
        )
    return "\n".join(lines)


def _check_injectors(state_dict: Mapping[str, Tensor]) -> None:
    """Refuse adapters that the original would fill up with random injectors."""
    with_extractor, with_injector = (
        find_numbers(rf"(?:backbone\.)?interactions\.(\d+)\.{part}\.", state_dict)
        for part in ("extractor", "injector")
    )
    if with_extractor != with_injector:
        raise ValueError(
            "the original has no adapter without injectors; only those of mode='full' can be "
            "converted to it"
        )


def _describe_ours(names: Sequence[str]) -> str:
    return (
        f"{len(names)} keys of this project have no counterpart in the original's models: "
        f"{', '.join(names)}; known are, with a backbone that build_backbone makes: {KNOWN_MODELS}"
    )


def _first(patterns: Mapping[str, str], name: str) -> str | None:
    """What stands beside the first pattern that matches the beginning of ``name``."""
    return next((text for pattern, text in patterns.items() if re.match(pattern, name)), None)
