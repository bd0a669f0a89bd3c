"""Running a ViT as a fixed feature extractor, for the adapter's frozen mode.

Shapes: B batch, H/W image sides in pixels, h/w grid of patches, N = h*w, D embed dim.
"""

import torch
from torch import Tensor

from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.layers import GridSize


class FrozenTrunk:
    """Runs a ViT without gradients in bfloat16: no activation of it is kept.

    GPUs older than Ampere, which only emulate bfloat16, compute in float16.

    The weights stay as they are and are rounded as they are used, by autocast: a checkpoint holds
    them in full precision, whatever the mode, and layer norms and the residual stream stay in
    float32. Double precision stays double.

    It is no module, so that the ViT keeps its place and its names in the model.
    """

    def __init__(self, vit: ViTTrunk) -> None:
        self._vit = vit

    def embed(self, images: Tensor) -> tuple[Tensor, GridSize]:
        """See :meth:`ViTTrunk.embed`; the tokens have the dtype of the images."""
        with torch.no_grad(), self._autocast(images):
            tokens, grid = self._vit.embed(images)
        return tokens.to(images.dtype), grid

    def forward_blocks(self, tokens: Tensor, grid: GridSize, start: int, stop: int) -> Tensor:
        """See :meth:`ViTTrunk.forward_blocks`; the dtype of the tokens stays."""
        with torch.no_grad(), self._autocast(tokens):
            output = self._vit.forward_blocks(tokens, grid, start, stop)
        return output.to(tokens.dtype)

    @staticmethod
    def _autocast(tensor: Tensor) -> torch.autocast:
        return torch.autocast(tensor.device.type, dtype=_short_dtype(tensor.device.type))


@torch.compiler.assume_constant_result
def _short_dtype(device_type: str) -> torch.dtype:
    """The 16-bit dtype that a device computes in."""
    if device_type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16
