"""Hints in error messages."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["did_you_mean"]

_MOST_NEAR, _MOST = 4, 6


def did_you_mean(
    name: str,
    known: Iterable[str],
    *,
    cutoff: float = 0.5,
    also: Iterable[str] = (),
    otherwise: str = "",
) -> str:
    """Return a question that names what is like an unknown name, to be put behind a sentence.

    Args:
        name: what was given.
        known: what could have been meant.
        cutoff: how like it they have to be, from 0 to 1 (:func:`difflib.get_close_matches`).
        also: names to be offered in any case, behind those.
        otherwise: a sentence for when nothing is like it.

    Returns:
        ``" Did you mean a, b?"`` with a space in front, or ``otherwise`` with one, or "".
    """
    near = get_close_matches(name, list(known), n=_MOST_NEAR, cutoff=cutoff)
    names = list(dict.fromkeys([*near, *also]))[:_MOST]
    if names:
        return f" Did you mean {', '.join(names)}?"
    return f" {otherwise}" if otherwise else ""
