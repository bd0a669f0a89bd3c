"""Conversion of the original's state dicts to ours and back.

Tensors are shared and never changed. Only those that consist of several tensors on the other side
(see ``parts.py``) are new.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vit_adapter.checkpoint.original.layouts import (
    KNOWN_MODELS,
    UNSUPPORTED,
    layout_of_ours,
    layout_of_theirs,
)
from vit_adapter.checkpoint.original.layouts.layout import Layout, find_numbers
from vit_adapter.checkpoint.original.parts import Join, join_parts, split_into_parts
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
_OUR_BLOCKS = r"(backbone\.)?(bottom_up\.)*vit\.((model\.)?blocks|layers)\."
"""Names of this project: the ViT is a part of the backbone, and not the backbone itself."""


@dataclass(frozen=True)
class Conversion:
    """A renamed state dict and what happened to each name.

    Attributes:
        state_dict: new name -> tensor.
        names: old name -> new name, in the order of the old state dict. ``name@1/2`` is the first
            of two parts of a tensor.
        dropped: old name that has no place in the new state dict -> reason.
        made: new name of a tensor that corresponds to no old one -> where its value is from. The
            original has some that this project does not need.
    """

    state_dict: dict[str, Tensor]
    names: dict[str, str]
    dropped: dict[str, str]
    made: dict[str, str] = field(default_factory=dict)


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


def convert(state_dict: Mapping[str, Tensor], *, join: Join = torch.cat) -> Conversion:
    """Rename the original's parameters and buffers to ours.

    Args:
        state_dict: of a backbone alone, of the backbone part of a detector (all names start with
            ``backbone.``), or of a whole model that has a layout (see ``layouts``). Of a model of
            Mask2Former's authors only the head is converted.
        join: concatenates the parts of a tensor along the first dimension.

    Returns:
        The state dict for the result of :func:`build_backbone` or, if the names start with
        ``backbone.``, for a Detectron2 model: a detector has that backbone as
        ``backbone.bottom_up``, a segmentor as ``backbone``.

    Raises:
        ValueError: some parts are not supported or missing, some names belong to no known part (all
            of them are listed), two names become the same, or a value is not a tensor.
    """
    layout = layout_of_theirs(state_dict)
    layout.check(state_dict)
    renamer = Renamer(layout.rules(state_dict))
    layout = replace(layout, left_out={**_IGNORED, **layout.left_out})
    return _rename(state_dict, layout, renamer.to_ours, _describe_theirs, join)


def revert(
    state_dict: Mapping[str, Tensor], *, tree: str | None = None, join: Join = torch.cat
) -> Conversion:
    """Rename our parameters and buffers to the original's: the opposite of :func:`convert`.

    Args:
        state_dict: of our backbone, or of a Detectron2 model as :func:`convert` returns it.
        tree: "detection" for a Mask2Former of the original's panoptic detectors, whose head has a
            different name than that of the segmentors; "mask2former" for the head alone with the
            names of Mask2Former's authors. Other models do not need it.
        join: concatenates the parts of a tensor along the first dimension.

    Raises:
        ValueError: the original has no counterpart for some names (all of them are listed), the
            adapter's mode is not that of the original, or a value is not a tensor.
    """
    layout = layout_of_ours(state_dict, tree)
    renamer = Renamer(layout.rules(state_dict))
    conversion = _rename(state_dict, layout, renamer.to_theirs, _describe_ours, join)
    theirs = conversion.state_dict
    layout.check(theirs)
    _check_injectors(theirs)
    made = layout.made(theirs)
    complete = with_relative_indexes(theirs)
    reasons = {name: "follows from the window size" for name in complete if name not in theirs}
    return replace(
        conversion,
        state_dict={**complete, **{name: entry.tensor for name, entry in made.items()}},
        made={**reasons, **{name: entry.reason for name, entry in made.items()}},
    )


def _rename(
    state_dict: Mapping[str, Tensor],
    layout: Layout,
    rename: Callable[[str], str | None],
    describe: Callable[[Sequence[str]], str],
    join: Join,
) -> Conversion:
    names, unknown, renamed, dropped = {}, [], {}, {}
    for whole, whole_value in state_dict.items():
        if not isinstance(whole_value, Tensor):
            raise ValueError(
                f"expected a tensor for every key, got {type(whole_value).__name__} for {whole!r}"
            )
        for name, value in split_into_parts(whole, whole_value, rename).items():
            reason, new = _first(layout.left_out, name), rename(name)
            if reason is not None:
                dropped[name] = reason
            elif new is None:
                unknown.append(name)
            elif new in renamed:
                raise ValueError(f"{name!r} and another key would both become {new!r}")
            else:
                names[name] = new
                renamed[new] = value
    if unknown:
        raise ValueError(describe(unknown))

    def is_left_out(name: str) -> bool:
        return _first(layout.left_out, name) is not None

    return Conversion(join_parts(renamed, is_left_out, join), names, dropped)


def _describe_theirs(names: Sequence[str]) -> str:
    """List names by the part of the original that they belong to, unless they are ours."""
    ours = next((name for name in names if re.match(_OUR_BLOCKS, name)), None)
    if ours is not None:
        return (
            f"the names look like those of this project, such as {ours!r}, so the checkpoint needs "
            "no conversion; convert_checkpoint.py --reverse converts it to the original's names"
        )
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
