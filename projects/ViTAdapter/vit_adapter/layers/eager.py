"""When a computation may be done by other means than PyTorch's public ones."""

from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode


def is_observed() -> bool:
    """Whether operations are recorded, transformed or counted; all that knows PyTorch's own."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or _get_current_dispatch_mode() is not None
    )


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is nothing but some float32 numbers on the CPU."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.layout == torch.strided
        and tensor.numel() > 0
    )


def refuse_scripting() -> NoReturn:
    """Answer ``torch.jit.script``, which calls ``__prepare_scriptable__`` of every module.

    Raises:
        RuntimeError: always. The compiler's own words would be about some annotation.
    """
    raise RuntimeError(
        "torch.jit.script cannot compile the modules of vit_adapter. Use torch.jit.trace (for a "
        "detector with detectron2.export.TracingAdapter) or torch.export."
    )
