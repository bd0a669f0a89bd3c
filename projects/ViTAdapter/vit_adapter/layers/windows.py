"""Square windows of a token grid, for windowed self-attention.

The caller decides what the padding holds, because the public plain ViTs differ:

* ViT-Adapter's ViT pads *after* the qkv projection: padded queries, keys and values are exactly
  zero;
* BEiT and Uni-Perceiver pad *before* it: padded queries, keys and values are the biases of the
  projection.

Neither masks the padding: padded tokens take part in the attention of their window.

Shapes: B batch, H/W grid, C channels, R/K rows and columns of windows, w window side.
"""

import torch.nn.functional as F
from torch import Tensor

from vit_adapter.layers.pyramid import GridSize, known_equal


def window_partition(tokens: Tensor, grid: GridSize, window_size: int) -> Tensor:
    """Pad a grid with zeros at the bottom and right to whole windows, and cut it into windows.

    Args:
        tokens: (B, H*W, C), row-major.
        grid: (H, W).
        window_size: side of a window in tokens; a grid smaller than it becomes one padded window.

    Returns:
        (B*R*K, w*w, C): image by image, windows row-major, tokens row-major within a window.
    """
    batch, _, channels = tokens.shape
    height, width = grid
    rows, columns = _window_counts(grid, window_size)
    x = tokens.view(batch, height, width, channels)
    padded = rows * window_size, columns * window_size
    if not known_equal(padded, grid):
        x = F.pad(x, (0, 0, 0, padded[1] - width, 0, padded[0] - height))
    x = x.view(batch, rows, window_size, columns, window_size, channels)
    x = x.transpose(2, 3)  # (B, R, K, w, w, C)
    return x.reshape(-1, window_size**2, channels)


def window_merge(windows: Tensor, grid: GridSize, window_size: int) -> Tensor:
    """Undo :func:`window_partition`: (B*R*K, w*w, C) -> (B, H*W, C), without the padding."""
    channels = windows.shape[-1]
    height, width = grid
    rows, columns = _window_counts(grid, window_size)
    x = windows.view(-1, rows, columns, window_size, window_size, channels).transpose(2, 3)
    x = x.reshape(-1, rows * window_size, columns * window_size, channels)
    return x[:, :height, :width].reshape(-1, height * width, channels)


def _window_counts(grid: GridSize, window_size: int) -> tuple[int, int]:
    return -(-grid[0] // window_size), -(-grid[1] // window_size)
