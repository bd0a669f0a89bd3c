"""Softmax of short rows.

Shapes: M rows (e.g. heads), K numbers in each.
"""

import torch
from torch import Tensor

from vit_adapter.ops.cpu_fast_paths import is_on


def softmax(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Softmax of (..., M, K) over K, computed in ``dtype``.

    For small K, PyTorch's CPU kernel is slow along the last dimension and fast along others.
    """
    if logits.device.type != "cpu" or not is_on("softmax"):
        return logits.softmax(-1, dtype=dtype)
    return logits.transpose(-1, -2).softmax(-2, dtype=dtype).transpose(-1, -2)
