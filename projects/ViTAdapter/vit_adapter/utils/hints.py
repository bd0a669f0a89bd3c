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
    """Return a question that suggests names similar to an unknown one, to append to a message.

    Args:
        name: the unknown name.
        known: the known names.
        cutoff: least similarity, from 0 to 1 (see :func:`difflib.get_close_matches`).
        also: names to suggest in any case, after the similar ones.
        otherwise: a sentence to return if there is nothing to suggest.

    Returns:
        ``" Did you mean a, b?"`` or ``otherwise``, with a space in front; "" if both are empty.
    """
    near = get_close_matches(name, list(known), n=_MOST_NEAR, cutoff=cutoff)
    names = list(dict.fromkeys([*near, *also]))[:_MOST]
    if names:
        return f" Did you mean {', '.join(names)}?"
    return f" {otherwise}" if otherwise else ""
