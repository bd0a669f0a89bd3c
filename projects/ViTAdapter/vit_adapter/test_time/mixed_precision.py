"""Testing a model in 16-bit precision."""

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vit_adapter.detection.boxes import in_float32

__all__ = ["MixedPrecision"]


class MixedPrecision(nn.Module):
    """Runs a model under autocast, and computes what decides in float32.

    Matrix products and convolutions are computed in 16 bits. Sampling locations and their weights,
    norm statistics, class probabilities, boxes, NMS and masks at the size of the image stay in
    float32: autocast leaves them alone, this package's models ask for it, and the scores, box
    deltas and mask logits of Detectron2's heads are converted before they are used. The outputs
    have the same types as without autocast.

    The weights keep their type. The heads are left as they were when this object is deleted.

    Args:
        model: a model or a wrapper around one; this wrapper takes over its mode.
        dtype: ``torch.bfloat16`` or ``torch.float16``.

    Attributes:
        model: the model that is run.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.training = model.training
        handles = [part.register_forward_hook(_widen) for part in _deciding_parts(model)]
        weakref.finalize(self, _remove, handles)

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> Any:
        """Return what the model returns."""
        device_type = next(self.model.parameters()).device.type
        with torch.autocast(device_type, dtype=self.dtype):
            return self.model(batched_inputs)


def _deciding_parts(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of Detectron2 whose outputs are compared, decoded or resized afterwards."""
    for module in model.modules():
        if isinstance(module, (FastRCNNOutputLayers, StandardRPNHead)):
            yield module
        elif isinstance(module, (BaseMaskRCNNHead, SemSegFPNHead)) and hasattr(module, "predictor"):
            yield module.predictor


def _widen(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return in_float32(outputs)
    return type(outputs)(_widen(module, inputs, part) for part in outputs)


def _remove(handles: Sequence[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
