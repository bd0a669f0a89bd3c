"""BEiT's ``relative_position_index``: buffers of the original that this project does not need.

Each holds, for every pair of tokens, the row of the block's bias table, which follows from the size
of the window. The original's released segmentors do not store them, but its newly built models have
them.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["with_relative_indexes"]

_TABLE = ".attn.relative_position_bias_table"
_INDEX = ".attn.relative_position_index"
_NUM_CLASS_ROWS = 3  # at the end of a table: class token as query, as key, and with itself


def with_relative_indexes(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the index of every bias table, directly after the table.

    Args:
        state_dict: the original's names. The shape of a window that is not square does not follow
            from its table, so it gets no index; the original then keeps its initial one.
    """
    class_token = any(name in ("cls_token", "backbone.cls_token") for name in state_dict)
    indexes: dict[tuple[int, torch.device], Tensor] = {}  # shared by blocks of the same size
    result = {}
    for name, value in state_dict.items():
        result[name] = value
        if not name.endswith(_TABLE):
            continue
        offsets = value.shape[0] - _NUM_CLASS_ROWS * class_token
        side = math.isqrt(offsets)
        if side * side != offsets or side % 2 == 0:
            continue
        window = side // 2 + 1
        key = (window, value.device)
        if key not in indexes:
            indexes[key] = relative_index(
                window, window, class_token=class_token, device=value.device
            )
        result[name.removesuffix(_TABLE) + _INDEX] = indexes[key]
    return result


def relative_index(
    height: int, width: int, *, class_token: bool, device: torch.device | None = None
) -> Tensor:
    """Return the rows of the bias table for all pairs of tokens in a window.

    Args:
        height: height h of the window in tokens.
        width: width w of the window in tokens.
        class_token: whether a class token precedes the tokens of the window.
        device: device of the result.

    Returns:
        (N, N) int64, query by key; N = h*w, plus one with a class token.
    """
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    down = rows[:, None] - rows + height - 1
    right = columns[:, None] - columns + width - 1
    pairs = down * (2 * width - 1) + right
    if not class_token:
        return pairs
    index = torch.nn.functional.pad(pairs, (1, 0, 1, 0))
    as_query = (2 * height - 1) * (2 * width - 1)
    index[0, :] = as_query
    index[:, 0] = as_query + 1
    index[0, 0] = as_query + 2
    return index
