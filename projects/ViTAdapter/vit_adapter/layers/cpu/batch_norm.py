"""Batch norm with correct gradients: a workaround that the switch does not turn off.

Shapes: B batch, C channels, H/W height and width of a map.
"""

from torch import Tensor, nn


def normalise_cells(norm: nn.Module, features: Tensor) -> Tensor:
    """Give a batch norm the cells of a map as a batch of one-pixel maps.

    On the CPU, PyTorch (2.13, 2.14) computes wrong gradients of a batch norm for some strides of a
    single image or of its gradient. It handles the strides of cells correctly. The sums are the
    same, in another order.

    Args:
        norm: the batch norm; its forward hooks see (B * H * W, C, 1, 1).
        features: (B, C, H, W); with channels-last strides nothing is copied.

    Returns:
        (B, C, H, W), with channels-last strides.
    """
    cells = features.permute(0, 2, 3, 1)  # (B, H, W, C)
    normed = norm(cells.flatten(0, 2)[:, :, None, None])
    return normed.view(cells.shape).permute(0, 3, 1, 2)
