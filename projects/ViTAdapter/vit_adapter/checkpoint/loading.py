"""Strict loading of weights: every name and shape fits, or nothing is loaded."""

import copy
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor, nn

__all__ = [
    "ADVICE",
    "CheckpointMismatchError",
    "LoadReport",
    "ResizedEntry",
    "compare_keys",
    "load_strict",
    "without_prefix",
]

logger = logging.getLogger(__name__)

_OPTIONAL_SUFFIXES = (".num_batches_tracked", ".rope.periods")
"""Buffers whose absence from a checkpoint does not count as a mismatch. The first is batch norm's
step counter: nothing reads it while the momentum is fixed, and older frameworks do not store it.
The second are the periods of DINOv3's rotary positions: timm does not store them, and the model has
exact ones."""

ADVICE = (
    "Use the config that the checkpoint was trained with. To let the model keep its own values for "
    "some of these names, list regular expressions that match them, e.g. "
    "train.allow_mismatch='[box_predictor]'."
)
"""The last sentences of an error message where mismatches can be allowed."""


class ResizedEntry(NamedTuple):
    """A tensor whose shape was changed while loading."""

    name: str
    checkpoint_shape: tuple[int, ...]
    model_shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.checkpoint_shape} -> {self.model_shape}"


@dataclass(frozen=True)
class LoadReport:
    """What happened to every name of a checkpoint and of a model.

    Attributes:
        loaded: names copied from the checkpoint into the model.
        unused: names of the checkpoint that the model does not have.
        missing: names of the model that the checkpoint does not have; they keep their values.
        misshapen: (name, shape in the checkpoint, shape in the model); they keep their values.
        resized: names among ``loaded`` whose tensor was resized to the model's shape.
    """

    loaded: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    resized: tuple[ResizedEntry, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether every name and its shape match."""
        return not (self.unused or self.missing or self.misshapen)

    def without(self, patterns: str | Sequence[str]) -> "LoadReport":
        """The same report without the mismatches that one of the regular expressions matches."""
        compiled = _compile(patterns)

        def refused(name: str) -> bool:
            return not any(pattern.search(name) for pattern in compiled)

        return replace(
            self,
            unused=tuple(filter(refused, self.unused)),
            missing=tuple(filter(refused, self.missing)),
            misshapen=tuple(entry for entry in self.misshapen if refused(entry[0])),
        )

    def describe(self) -> str:
        """Every mismatch and every resized tensor, one name per line; "" if there is none."""
        parts = []
        if self.unused:
            parts.append(_section("only in the checkpoint (unused)", self.unused))
        if self.missing:
            parts.append(_section("only in the model (missing)", self.missing))
        if self.misshapen:
            lines = [
                f"{name}: {checkpoint_shape} in the checkpoint, {model_shape} in the model"
                for name, checkpoint_shape, model_shape in self.misshapen
            ]
            parts.append(_section("of a different shape (misshapen)", lines))
        if self.resized:
            parts.append(_section("resized to the model's shape", list(map(str, self.resized))))
        return "\n".join(parts)


class CheckpointMismatchError(ValueError):
    """The names or shapes of a checkpoint do not fit the model; nothing was loaded.

    Attributes:
        report: the mismatches that were not allowed.
    """

    def __init__(self, message: str, report: LoadReport) -> None:
        super().__init__(message)
        self.report = report


def compare_keys(model: nn.Module, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """Compare the names and shapes of ``state_dict`` with those of ``model``; load nothing."""
    expected = model.state_dict()
    misshapen = tuple(
        (name, tuple(state_dict[name].shape), tuple(value.shape))
        for name, value in expected.items()
        if name in state_dict and state_dict[name].shape != value.shape
    )
    misfits = {name for name, _, _ in misshapen}
    return LoadReport(
        loaded=tuple(name for name in state_dict if name in expected and name not in misfits),
        unused=tuple(name for name in state_dict if name not in expected),
        missing=tuple(
            name
            for name in expected
            if name not in state_dict and not name.endswith(_OPTIONAL_SUFFIXES)
        ),
        misshapen=misshapen,
    )


def without_prefix(
    model: nn.Module, state_dict: dict[str, Tensor], *, source: str = "the checkpoint"
) -> dict[str, Tensor]:
    """Drop a prefix of all the model's names, such as Lightning's ``model.``.

    Args:
        model: without a wrapper.
        state_dict: name -> tensor.
        source: what the log calls the checkpoint.

    Returns:
        ``state_dict`` itself, unless it has every name of the model behind exactly one prefix and
        none without it. Names that do not start with the prefix stay as they are.
    """
    names = [name for name in model.state_dict() if not name.endswith(_OPTIONAL_SUFFIXES)]
    if not names or any(name in state_dict for name in names):
        return state_dict
    found = [key.removesuffix(names[0]) for key in state_dict if key.endswith(f".{names[0]}")]
    prefixes = [prefix for prefix in found if all(prefix + name in state_dict for name in names)]
    if len(prefixes) != 1:
        return state_dict
    logger.info("Dropped the prefix %r from the names in %s.", prefixes[0], source)
    return {key.removeprefix(prefixes[0]): value for key, value in state_dict.items()}


def load_strict(
    model: nn.Module,
    state_dict: dict[str, Tensor],
    allow: str | Sequence[str] = (),
    *,
    source: str = "the checkpoint",
    advice: str = ADVICE,
) -> LoadReport:
    """Copy ``state_dict`` into ``model`` if every name and shape fits; otherwise copy nothing.

    Args:
        model: without a wrapper. It receives the weights, and keeps its own values where a mismatch
            is allowed.
        state_dict: name -> tensor.
        allow: one or several regular expressions, searched for anywhere in a name. Mismatches of
            names that they match are ignored.
        source: what the messages call the checkpoint.
        advice: the last sentences of an error message.

    Returns:
        A report on all names, allowed mismatches included.

    Raises:
        CheckpointMismatchError: there are mismatches that ``allow`` does not cover; the message
            lists all of them.
        ValueError: a pattern in ``allow`` is not a regular expression.
    """
    report = compare_keys(model, state_dict)
    refused = report.without(allow)
    if not refused.is_exact:
        total = len(refused.unused) + len(refused.missing) + len(refused.misshapen)
        raise CheckpointMismatchError(
            f"{source} does not fit the model: {total} names do not match, {len(report.loaded)} "
            f"do. Nothing was loaded.\n{refused.describe()}\n{advice}",
            refused,
        )
    usable = set(report.loaded)
    filtered = copy.copy(state_dict)  # with the module versions attached to it
    for name in state_dict:
        if name not in usable:
            del filtered[name]
    model.load_state_dict(filtered, strict=False)
    if not report.is_exact:
        logger.warning(
            "Allowed mismatches between %s and the model:\n%s", source, report.describe()
        )
    return report


def _compile(patterns: str | Sequence[str]) -> list[re.Pattern[str]]:
    compiled = []
    # Iterating over a single string would make each of its letters a pattern.
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ValueError(
                f"{pattern!r} is not a regular expression ({error}); expected one to search for in "
                "parameter names, such as 'box_predictor'."
            ) from error
    return compiled


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n  ".join([f"{len(lines)} {title}:", *lines])
