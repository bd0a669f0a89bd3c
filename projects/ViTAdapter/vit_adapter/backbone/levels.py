"""The four outputs that every backbone of this project offers."""

from collections.abc import Sequence

# Detectron2's names of the strides 4, 8, 16 and 32.
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


def check_out_features(out_features: Sequence[str]) -> list[str]:
    """The wanted outputs as a list.

    Raises:
        ValueError: none is wanted, one is wanted twice, or a name is not one of ``STRIDES``.
    """
    names = list(out_features)
    if not names or len(set(names)) != len(names) or not set(names) <= set(STRIDES):
        raise ValueError(
            f"out_features must be different names out of {list(STRIDES)}, got {names}"
        )
    return names
