"""Archives of Google's big_vision (SigLIP, later AugReg), in the layout of JAX."""

import re
from collections.abc import Mapping

from torch import Tensor

__all__ = ["is_big_vision", "rename_big_vision"]

_IMAGE_TOWER = re.compile(r"^params/(?:img/)?(?=embedding/|Transformer/|pos_embedding$|cls$)")
_BLOCK = re.compile(r"^Transformer/encoderblock(?:_(\d+))?/(.+)$")
_WITHIN_BLOCK = (
    ("MultiHeadDotProductAttention_0/", "MultiHeadDotProductAttention_1/"),
    ("LayerNorm_1/", "LayerNorm_2/"),
    ("MlpBlock_0/", "MlpBlock_3/"),
)
"""Names in big_vision and in the older vision_transformer, which numbers all layers together."""


def is_big_vision(arrays: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of https://github.com/google-research/big_vision."""
    return any(_IMAGE_TOWER.match(key) for key in arrays)


def rename_big_vision(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the image tower to the layout of Google's older vision_transformer.

    Args:
        arrays: the content of an ``.npz`` of big_vision. Blocks are numbered, or stacked along the
            first dimension.

    Returns:
        The names that :func:`convert_augreg` reads. Text tower and pooling head are left out.
    """
    renamed = {}
    for key, value in arrays.items():
        name, found = _IMAGE_TOWER.subn("", key)
        if not found:
            continue
        block = _BLOCK.match(name)
        if block is None:
            if name == "pos_embedding":
                name = "Transformer/posembed_input/pos_embedding"
                value = value if value.ndim == 3 else value[None]  # (1, N, D)
            renamed[name] = value
            continue
        within = block[2]
        for new, old in _WITHIN_BLOCK:
            within = within.replace(new, old)
        parts = [(block[1], value)] if block[1] else enumerate(value.unbind(0))
        renamed |= {f"Transformer/encoderblock_{index}/{within}": part for index, part in parts}
    return renamed
