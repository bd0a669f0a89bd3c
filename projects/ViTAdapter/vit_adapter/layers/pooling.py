"""Average pooling to a fixed grid, also in graphs for maps of any size.

Shapes: B batch, C channels, H/W sides of the map, S side of the grid.
"""

import torch
from torch import Tensor, nn

from vit_adapter.ops.exporting import is_exporting


class PoolToGrid(nn.AdaptiveAvgPool2d):
    """:class:`torch.nn.AdaptiveAvgPool2d` to (S, S); ONNX has this only for maps of a fixed size.

    Args:
        side: S.
    """

    def __init__(self, side: int) -> None:
        super().__init__(side)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, S, S)."""
        if not is_exporting():
            return super().forward(features)
        rows, columns = (_averages(side, self.output_size, features) for side in features.shape[2:])
        return rows @ features @ columns.mT


def _averages(length: int, cells: int, like: Tensor) -> Tensor:
    """The matrix (cells, length) that averages a side; neighbouring cells can share a pixel."""
    cell = torch.arange(cells, device=like.device)[:, None]
    pixel = torch.arange(length, device=like.device)
    start, stop = cell * length // cells, -(-(cell + 1) * length // cells)
    inside = ((pixel >= start) & (pixel < stop)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)
