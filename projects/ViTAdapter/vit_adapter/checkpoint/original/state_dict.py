"""Conversion of the original's state dicts to ours and back.

Tensors are shared, never copied or changed.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

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

__all__ = [
    "Conversion",
    "convert",
    "convert_state_dict",
    "revert",
    "revert_state_dict",
    "take_moving_averages",
]

_AVERAGE = "ema_"
_IGNORED = {
    rf"{_AVERAGE}\w+$": "moving average of another tensor, which the training kept",
    r"(backbone\.)?blocks\.\d+\.attn\.relative_position_index$": "follows from the window size",
}
"""Buffers of the original that no model needs: pattern -> why not."""


@dataclass(frozen=True)
class Conversion:
    """A renamed state dict and what happened to each name.

    Attributes:
        state_dict: new name -> tensor. In a state dict for the original this includes the indexes
            of BEiT's bias tables, which this project does not need.
        names: old name -> new name, in the order of the old state dict.
        dropped: old name that has no place in the new state dict -> reason.
    """

    state_dict: dict[str, Tensor]
    names: dict[str, str]
    dropped: dict[str, str]


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return only the state dict of :func:`convert`."""
    return convert(state_dict).state_dict


def revert_state_dict(
    state_dict: Mapping[str, Tensor], *, tree: str | None = None
) -> dict[str, Tensor]:
    """Return only the state dict of :func:`revert`."""
    return revert(state_dict, tree=tree).state_dict


def take_moving_averages(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace the original's tensors by their moving averages, which some trainings keep.

    Args:
        state_dict: with the original's names; the average of ``a.b`` is called ``ema_a_b``.

    Returns:
        All names except those of the averages.

    Raises:
        ValueError: tensors other than whole numbers have no average.
    """
    result, without = {}, []
    for name, value in state_dict.items():
        if name.startswith(_AVERAGE):
            continue
        average = state_dict.get(_AVERAGE + name.replace(".", "_"))
        if average is None and value.is_floating_point():
            without.append(name)
        result[name] = value if average is None else average
    if without:
        raise ValueError(
            f"{len(without)} of {len(result)} tensors have no moving average ({_AVERAGE}*), such "
            f"as {without[0]!r}; convert the weights themselves"
        )
    return result


def convert(state_dict: Mapping[str, Tensor]) -> Conversion:
    """Rename the original's parameters and buffers to ours.

    Args:
        state_dict: of a backbone alone, of the backbone part of a detector (all names start with
            ``backbone.``), or of a whole model that has a layout (see ``layouts``). Of a model of
            Mask2Former's authors only the head is converted.

    Returns:
        The state dict for the result of :func:`build_backbone` or, if the names start with
        ``backbone.``, for a Detectron2 model: a detector has that backbone as
        ``backbone.bottom_up``, a segmentor as ``backbone``.

    Raises:
        ValueError: some parts are not supported, some names belong to no known part (all of them
            are listed), two names become the same, or a value is not a tensor.
    """
    layout = layout_of_theirs(state_dict)
    renamer = Renamer(layout.rules(state_dict))
    dropped = _left_out(state_dict, {**_IGNORED, **layout.left_out})
    return _rename(state_dict, renamer.to_ours, _describe_theirs, dropped)


def revert(state_dict: Mapping[str, Tensor], *, tree: str | None = None) -> Conversion:
    """Rename our parameters and buffers to the original's: the opposite of :func:`convert`.

    Args:
        state_dict: of our backbone, or of a Detectron2 model as :func:`convert` returns it.
        tree: "detection" for a Mask2Former of the original's panoptic detectors, whose head has a
            different name than that of the segmentors; "mask2former" for the head alone with the
            names of Mask2Former's authors. Other models do not need it.

    Raises:
        ValueError: the original has no counterpart for some names (all of them are listed), the
            adapter's mode is not "full", or a value is not a tensor.
    """
    layout = layout_of_ours(state_dict, tree)
    renamer = Renamer(layout.rules(state_dict))
    dropped = _left_out(state_dict, layout.left_out)
    conversion = _rename(state_dict, renamer.to_theirs, _describe_ours, dropped)
    _check_injectors(conversion.state_dict)
    return replace(conversion, state_dict=with_relative_indexes(conversion.state_dict))


def _rename(
    state_dict: Mapping[str, Tensor],
    rename: Callable[[str], str | None],
    describe: Callable[[Sequence[str]], str],
    dropped: Mapping[str, str],
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


def _left_out(names: Iterable[str], reasons: Mapping[str, str]) -> dict[str, str]:
    """The names that match a pattern of ``reasons``, each with its reason."""
    found = ((name, _first(reasons, name)) for name in names)
    return {name: reason for name, reason in found if reason is not None}


def _describe_theirs(names: Sequence[str]) -> str:
    """List names by the part of the original that they belong to."""
    unsupported = {entry.pattern: entry.part for entry in UNSUPPORTED}
    parts: dict[str | None, list[str]] = {}
    for name in names:
        parts.setdefault(_first(unsupported, name), []).append(name)
    strangers = parts.pop(None, [])
    lines = [
        f"not supported by this project: {part} ({_count(of_part)}): {', '.join(of_part)}"
        for part, of_part in parts.items()
    ]
    if strangers:
        lines.append(
            f"not part of any known ViT-Adapter model ({_count(strangers)}): "
            f"{', '.join(strangers)}; the original's models known here are: {KNOWN_MODELS}"
        )
    return "\n".join(lines)


def _count(names: Sequence[str]) -> str:
    return "1 key" if len(names) == 1 else f"{len(names)} keys"


def _check_injectors(state_dict: Mapping[str, Tensor]) -> None:
    """Refuse adapters for which the original would add random injectors."""
    with_extractor, with_injector = (
        find_numbers(rf"(?:backbone\.)?interactions\.(\d+)\.{part}\.", state_dict)
        for part in ("extractor", "injector")
    )
    if with_extractor != with_injector:
        raise ValueError(
            "the original has no adapter without injectors; only adapters with mode='full' can be "
            "converted to it"
        )


def _describe_ours(names: Sequence[str]) -> str:
    return (
        f"no counterpart in the original's models ({_count(names)}): "
        f"{', '.join(names)}; it has counterparts for the backbones of build_backbone in: "
        f"{KNOWN_MODELS}"
    )


def _first(patterns: Mapping[str, str], name: str) -> str | None:
    """The text of the first pattern that matches the start of ``name``, or None."""
    return next((text for pattern, text in patterns.items() if re.match(pattern, name)), None)
