"""Reads the value of an override ``key=value``, which must have the same type as the key's value.

Text is taken exactly as typed, so a folder may be called ``2024_01_01`` or ``run=1, (copy)``. All
other values are parsed with Hydra's grammar and must match the config: a number where the config
has a number.
"""

import math
import os
import re
from collections.abc import Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError

from vit_adapter.config.errors import UsageError
from vit_adapter.config.literals import literal

__all__ = ["DATA_PATHS", "SHORT_FORMS", "read_value"]

DATA_PATHS = frozenset(
    f"data.{split}_{kind}"
    for split in ("train", "val")
    for kind in ("images", "json", "labels", "panoptic_json", "panoptic_pngs")
)
"""The keys of custom data."""

SHORT_FORMS = frozenset(["model.input_channels"])
"""Keys that a config need not have; loading it replaces them by others."""

_PATHS = DATA_PATHS | {"train.output_dir", "train.init_checkpoint", "train.vit_checkpoint"}
"""Always a text and never a list, even if the config has neither."""

_TEXTS = frozenset(["data.classes", "train.freeze", "train.allow_mismatch"])
"""Lists of texts, even if the list in the config is empty."""

_COUNTED = ("train.", "dataloader.", "data.")
"""Parts of a config where an integer must stay an integer: iterations, images, pixels."""

_OPTIONAL = frozenset(["train.checkpointer.max_to_keep", "train.best.patience"])
"""Numbers of ``train`` that may be null."""

_NEEDED = frozenset(
    ["model", "optimizer", "optimizer.params", "lr_multiplier", "train"]
    + ["dataloader", "dataloader.train", "dataloader.test"]
)
"""Groups that may not be null, because no command runs without them."""

# In a list: a quoted element, or everything up to the next comma.
_ELEMENT = re.compile(r"""\s*("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^,]*?)\s*(?:,|$)""", re.DOTALL)

_parser = OverridesParser.create()


def read_value(key: str, text: str, present: Any) -> Any:
    """Return the value that an override gives to a key.

    Args:
        key: such as ``train.max_iter``.
        text: everything after the ``=``.
        present: current value of the key, with lists as plain lists. If it is None, the type is
            unknown and Hydra's grammar alone decides.

    Raises:
        UsageError: ``text`` cannot be parsed, or has a different type.
    """
    if key in _PATHS:
        value = None if text == "null" else _read_text(key, text)
        return os.path.expanduser(value) if value and value.startswith("~/") else value
    if key in _TEXTS or isinstance(present, str) or _holds(present, str):
        return _read_texts(key, text, present)
    value = _read_by_grammar(key, text, present)
    may_be_null = key in _OPTIONAL or not (key in _NEEDED or key.startswith("train."))
    if _is_interpolation(value) or (value is None and may_be_null):
        return value
    if isinstance(present, bool | int | float):
        return _read_number(key, text, value, present)
    if isinstance(present, list | tuple):
        return _read_list(key, text, value, present)
    if isinstance(present, DictConfig) and not isinstance(value, dict):
        inside = ", ".join(map(str, present))
        raise _wrong(key, text, f"a group of keys ({inside}); set one of them")
    return value


def _read_texts(key: str, text: str, present: Any) -> str | list[str] | None:
    """Read a text or, in brackets, a list of texts."""
    if isinstance(present, list | tuple) and text in ("", "null"):
        return []
    if text == "null":
        return None
    if not (text.startswith("[") and text.endswith("]")):
        return _read_text(key, text)
    found = [match[1] for match in _ELEMENT.finditer(text[1:-1])]
    elements = found[:-1]  # the pattern finds nothing once more at the end
    if key == "data.classes":  # names, which may be "???" or hold "${"
        return [literal(_unquote(element)) for element in elements]
    return [_read_text(key, element) for element in elements]


def _read_text(key: str, text: str) -> str:
    """Read a text as typed; only enclosing quotes and interpolations have a special meaning."""
    text = _unquote(text)
    if text == "???":
        raise UsageError(f"override {key}={text}: in a config, ??? marks a missing value.")
    try:
        OmegaConf.create([text])
    except GrammarParseError:  # unclosed, so it is not an interpolation
        return literal(text)
    return text


def _unquote(text: str) -> str:
    """Remove the quotes around a text and the backslashes before quotes inside, as Hydra does."""
    if len(text) < 2 or text[0] not in "\"'" or text[0] != text[-1]:
        return text
    try:
        value = _parser.parse_override(f"text={text}").value()
    except HydraException:
        return text
    return value if isinstance(value, str) else text  # not quoted as a whole: "a","b"


def _read_by_grammar(key: str, text: str, present: Any) -> Any:
    try:
        override = _parser.parse_override(f"value={text}")
    except HydraException as error:
        now = f" (in the config: {key}={present})" if present is not None else ""
        raise UsageError(
            f"cannot read the override {key}={text}{now}. Put a list in brackets, [1,2], and a "
            f"text with special characters in quotes: '{key}=\"a, b\"'."
        ) from error
    if override.is_sweep_override():
        raise UsageError(
            f"override {key}={text} has several values; put a list in brackets: "
            f"{key}=[{text}], and quote a text with commas: '{key}=\"{text}\"'."
        )
    return override.value()


def _read_number(key: str, text: str, value: Any, present: float) -> Any:
    if isinstance(present, bool):
        if value in (0, 1):
            return bool(value)
        raise _wrong(key, text, "true or false")
    whole = isinstance(present, int) and key.startswith(_COUNTED)
    if isinstance(value, float) and value.is_integer() and isinstance(present, int):
        return int(value)
    if isinstance(value, dict | list) and not key.startswith(_COUNTED):
        return value
    if not _is_number(value, whole=whole):
        kind = "a whole number" if whole else "a number"
        raise _wrong(key, text, f"{kind}, such as {key}={present}")
    return value


def _read_list(key: str, text: str, value: Any, present: Any) -> Any:
    if value == "":
        return []
    numbers = _holds(present, int | float)
    whole = _holds(present, int) and key.startswith(_COUNTED)
    fits = isinstance(value, list) or not key.startswith(_COUNTED)
    for element in _leaves(value) if numbers else ():
        fits &= _is_interpolation(element) or _is_number(element, whole=whole)
    if not fits:
        kind = "whole numbers" if whole else "numbers" if numbers else "values"
        example = str(present).replace(" ", "")
        raise _wrong(key, text, f"a list of {kind} in brackets, such as {key}={example}")
    return value


def _holds(present: Any, kind: Any) -> bool:
    """Whether a value is a non-empty list whose entries all have one type."""
    leaves = list(_leaves(present)) if isinstance(present, list | tuple) else []
    return bool(leaves) and all(
        isinstance(leaf, kind) and not isinstance(leaf, bool) for leaf in leaves
    )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for element in value:
            yield from _leaves(element)
    else:
        yield value


def _is_number(value: Any, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return not math.isnan(value)


def _is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _wrong(key: str, text: str, expected: str) -> UsageError:
    return UsageError(f"override {key}={text}: {key} must be {expected}.")
