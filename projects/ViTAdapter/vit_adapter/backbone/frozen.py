"""Running a ViT as a fixed feature extractor, for the adapter's frozen mode.

Shapes: B batch, H/W image sides in pixels, h/w grid of patches, N = h*w, D embed dim.
"""

import contextlib
import logging
from functools import lru_cache

import torch
from torch import Tensor, nn

from vit_adapter.backbone.trunk import ViTTrunk
from vit_adapter.layers import GridSize
from vit_adapter.ops.exporting import is_exporting
from vit_adapter.ops.processor import computes_bfloat16

logger = logging.getLogger(__name__)


class FrozenTrunk:
    """Runs a ViT in bfloat16 without gradients, so that no activations are kept.

    Where bfloat16 is only emulated, a CPU computes in float32 and a GPU (one older than Ampere) in
    float16. The choice is logged once. On a CPU, an autocast that is already active is kept.

    The weights themselves do not change: autocast rounds them as they are used, so checkpoints
    hold them in full precision in every mode, unless :func:`store_in_bfloat16` has rounded them.
    Layer norms and the residual stream stay in float32. Double precision stays double. If the model
    was converted to 16 bits, everything is computed in these, without autocast.

    The blocks of a ViT with LoRA factors run with gradients for these, and not in float16, where
    gradients need the loss scaling of ``train.amp``.

    This is not a module, so that the ViT keeps its place and its names in the model.

    Args:
        vit: the ViT.
        in_bfloat16: whether its weights are stored in bfloat16.
    """

    def __init__(self, vit: ViTTrunk, *, in_bfloat16: bool = False) -> None:
        self._vit = vit
        self._in_bfloat16 = in_bfloat16

    def embed(self, images: Tensor) -> tuple[Tensor, GridSize]:
        """See :meth:`ViTTrunk.embed`; the tokens have the dtype of the images."""
        with torch.no_grad(), self._autocast(images):
            tokens, grid = self._vit.embed(images)
        return tokens.to(images.dtype), grid

    def forward_blocks(self, tokens: Tensor, grid: GridSize, start: int, stop: int) -> Tensor:
        """See :meth:`ViTTrunk.forward_blocks`; the dtype of the tokens is kept."""
        with self._fixed(), self._autocast(tokens):
            output = self._vit.forward_blocks(tokens, grid, start, stop)
        return output.to(tokens.dtype)

    def normalise(self, tokens: Tensor) -> Tensor:
        """See :meth:`ViTTrunk.normalise`; the dtype of the tokens is kept."""
        with self._fixed(), self._autocast(tokens):
            output = self._vit.normalise(tokens)
        return output.to(tokens.dtype)

    def _fixed(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self._vit.lora_rank else torch.no_grad()

    def _autocast(self, tensor: Tensor) -> contextlib.AbstractContextManager:
        if is_exporting():  # the graph is in float32, and so are the weights
            return contextlib.nullcontext()
        if tensor.dtype.itemsize < torch.float32.itemsize:  # images of a converted model
            return contextlib.nullcontext()
        device_type = tensor.device.type
        dtype = computing_dtype(device_type)
        if self._in_bfloat16 and tensor.dtype != torch.float64 and dtype != torch.bfloat16:
            raise RuntimeError(
                "the weights of the frozen ViT are stored in bfloat16 (frozen_dtype='bfloat16'), "
                f"but it computes in {str(dtype).removeprefix('torch.')} on {device_type} here, so "
                "the rounded weights would change the results. Use frozen_dtype='float32', or a "
                "device that computes in bfloat16"
            )
        needs_scaling = dtype == torch.float16 and self._vit.lora_rank
        if dtype == torch.float32 or needs_scaling or _is_requested(device_type):
            return contextlib.nullcontext()
        return torch.autocast(device_type, dtype=dtype)


def computing_dtype(device_type: str) -> torch.dtype:
    """The dtype in which :class:`FrozenTrunk` computes on a type of device, for float32 images."""
    if _is_requested(device_type):
        return torch.get_autocast_dtype(device_type)
    return _fast_dtype(device_type)


def _is_requested(device_type: str) -> bool:
    """Whether the caller has chosen a dtype by autocast, even if the CPU only emulates it."""
    return device_type == "cpu" and torch.is_autocast_enabled("cpu")


def store_in_bfloat16(vit: ViTTrunk) -> None:
    """Round the weights and biases of a ViT's linear layers and convolutions to bfloat16.

    These are what autocast rounds, so :class:`FrozenTrunk` computes the same numbers with half the
    memory. Norms, layer scales, tokens and positions keep their dtype.
    """
    for module in vit.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            for parameter in (module.weight, module.bias):  # not the factors of LoRA
                if parameter is not None:
                    parameter.data = parameter.data.to(torch.bfloat16)


@torch.compiler.assume_constant_result
def _fast_dtype(device_type: str) -> torch.dtype:
    """The dtype that a type of device computes fastest in."""
    return _choose_dtype(device_type)


@lru_cache
def _choose_dtype(device_type: str) -> torch.dtype:
    """Make this choice and log it, once for each type of device."""
    if computes_bfloat16(device_type):
        logger.info("The frozen ViT computes in bfloat16 on %s.", device_type)
        return torch.bfloat16
    dtype = torch.float16 if device_type == "cuda" else torch.float32
    logger.info(
        "The frozen ViT computes in %s on %s, where bfloat16 is only emulated.",
        str(dtype).removeprefix("torch."),
        device_type,
    )
    return dtype
