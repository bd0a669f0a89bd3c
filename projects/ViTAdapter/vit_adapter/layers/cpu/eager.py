"""When PyTorch's private functions may be used."""

import torch
from torch import Tensor, nn


def is_observed() -> bool:
    """Whether operations are recorded, transformed or counted; this needs the public ones."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch.utils._python_dispatch._get_current_dispatch_mode() is not None
    )


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is a plain, non-empty, dense float32 tensor on the CPU."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.layout == torch.strided
        and tensor.numel() > 0
    )
