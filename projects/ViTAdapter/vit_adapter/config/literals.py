"""Texts in a config that are meant as they stand: OmegaConf reads ``${`` and ``???`` as its own."""

import re
from collections.abc import Iterable

from omegaconf import ListConfig, OmegaConf

__all__ = ["literal", "literals", "read_literals"]

_MISSING = "???"
_INTERPOLATION = re.compile(r"(\\*)\$\{")


def literal(text: str) -> str:
    """Return what a config has to hold so that its value is ``text``, without interpolation.

    ``"???"``, a missing value to OmegaConf, has no other spelling; see :func:`read_literals`.
    """
    return _INTERPOLATION.sub(lambda match: 2 * match[1] + r"\${", text)


def literals(texts: Iterable[str]) -> ListConfig:
    """Return a list for a config that holds texts as they are; :func:`read_literals` reads it."""
    return ListConfig([literal(text) for text in texts])


def read_literals(node: ListConfig) -> list[str]:
    """Return the texts of a list in a config, ``"???"`` among them."""
    return [
        _MISSING if OmegaConf.is_missing(node, index) else node[index] for index in range(len(node))
    ]
