"""Literal texts in a config, where OmegaConf gives ``${`` and ``???`` a special meaning."""

import re
from collections.abc import Iterable

from omegaconf import ListConfig, OmegaConf

__all__ = ["literal", "literals", "read_literals"]

_MISSING = "???"
_INTERPOLATION = re.compile(r"(\\*)\$\{")


def literal(text: str) -> str:
    """Escape a text so that a config that holds the result has ``text`` as its value.

    ``"???"``, which OmegaConf treats as a missing value, cannot be escaped; see
    :func:`read_literals`.
    """
    return _INTERPOLATION.sub(lambda match: 2 * match[1] + r"\${", text)


def literals(texts: Iterable[str]) -> ListConfig:
    """Return a config list of literal texts; :func:`read_literals` reads it."""
    return ListConfig([literal(text) for text in texts])


def read_literals(node: ListConfig) -> list[str]:
    """Return the texts of a list in a config, including ``"???"``."""
    return [
        _MISSING if OmegaConf.is_missing(node, index) else node[index] for index in range(len(node))
    ]
