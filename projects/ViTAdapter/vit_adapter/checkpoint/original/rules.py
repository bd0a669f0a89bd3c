"""Renaming in both directions with pairs of templates.

A template is a parameter's name with fields in braces:

- ``{i}``: a number; ``{i+2}`` on the other side is the same number plus two;
- ``{leaf}``: the last component, such as ``weight`` or ``running_mean``;
- ``{*}``: one or more components, such as ``0.attn.qkv.weight``.

A template that ends in ``@1/2`` names the first of two equal parts of a tensor along its first
dimension (see ``parts.py``).

One pair serves both directions, so renaming there and back returns the same name.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

__all__ = ["Renamer", "Rule"]

_FIELD = re.compile(r"\{(\*|leaf|[a-z])(?:\+(\d+))?\}")
_VALUE_PATTERNS = {"*": r"(.+)", "leaf": r"(\w+)"}
_NUMBER_PATTERN = r"(\d+)"


class _Template:
    """One side of a rule."""

    def __init__(self, text: str) -> None:
        pieces = _FIELD.split(text)  # literal, field, shift, literal, ..., literal
        self.literals = pieces[::3]
        self.fields = list(zip(pieces[1::3], pieces[2::3], strict=True))
        pattern = re.escape(self.literals[0])
        for (field, _), literal in zip(self.fields, self.literals[1:], strict=True):
            pattern += _VALUE_PATTERNS.get(field, _NUMBER_PATTERN) + re.escape(literal)
        self.pattern = re.compile(pattern)

    def match(self, name: str) -> dict[str, str | int] | None:
        """The values of the fields, or None if the name does not match."""
        found = self.pattern.fullmatch(name)
        if found is None:
            return None
        values: dict[str, str | int] = {}
        for (field, shift), text in zip(self.fields, found.groups(), strict=True):
            values[field] = text if field in _VALUE_PATTERNS else int(text) - int(shift or 0)
        numbers = (value for value in values.values() if isinstance(value, int))
        return None if any(number < 0 for number in numbers) else values

    def fill(self, values: dict[str, str | int]) -> str:
        """The name with these values filled in."""
        name = self.literals[0]
        for (field, shift), literal in zip(self.fields, self.literals[1:], strict=True):
            value = values[field]
            name += str(value + int(shift or 0) if isinstance(value, int) else value) + literal
        return name


@dataclass(frozen=True)
class Rule:
    """A name of the original and our name for it, as templates with the same fields."""

    theirs: str
    ours: str

    @cached_property
    def _templates(self) -> tuple[_Template, _Template]:
        return _Template(self.theirs), _Template(self.ours)

    def to_ours(self, name: str) -> str | None:
        """Our name for the original's ``name``; None if the rule does not match."""
        theirs, ours = self._templates
        values = theirs.match(name)
        return None if values is None else ours.fill(values)

    def to_theirs(self, name: str) -> str | None:
        """The original's name for our ``name``; None if the rule does not match."""
        theirs, ours = self._templates
        values = ours.match(name)
        return None if values is None else theirs.fill(values)


@dataclass(frozen=True)
class Renamer:
    """A table of rules; the first one that matches is used."""

    rules: Sequence[Rule]

    def to_ours(self, name: str) -> str | None:
        """Our name for the original's ``name``; None if no rule matches."""
        found = (rule.to_ours(name) for rule in self.rules)
        return next((result for result in found if result is not None), None)

    def to_theirs(self, name: str) -> str | None:
        """The original's name for our ``name``; None if no rule matches."""
        found = (rule.to_theirs(name) for rule in self.rules)
        return next((result for result in found if result is not None), None)
