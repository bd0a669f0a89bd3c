"""Linear layers that use all of an AMD processor.

PyTorch leaves float32 matrix products to MKL, which has no AVX-512 code for AMD's processors;
oneDNN, which PyTorch brings along for convolutions, has.

Shapes: N rows (any leading dimensions), C input width, D output width.
"""

import platform
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """:class:`torch.nn.Linear`, computed by :func:`linear`."""

    def forward(self, features: Tensor) -> Tensor:
        """(..., C) -> (..., D)."""
        return linear(features, self.weight, self.bias)


def linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """:func:`torch.nn.functional.linear` by the faster library; equal but for rounding.

    Args:
        features: (..., C).
        weight: (D, C).
        bias: (D,).

    Returns:
        (..., D).
    """
    if not _suits_onednn(features, weight) or not _onednn_is_faster():
        return F.linear(features, weight, bias)
    if torch.is_grad_enabled():
        return _OneDnnLinear.apply(features, weight, bias)
    return _compute(features, weight, bias)


class _OneDnnLinear(torch.autograd.Function):
    """The product with its gradients; that of the weight is as fast by MKL."""

    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _compute(features, weight, bias)

    @staticmethod
    def setup_context(
        ctx: torch.autograd.function.FunctionCtx,
        inputs: tuple[Tensor, Tensor, Tensor | None],
        output: Tensor,
    ) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_output: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        features, weight = ctx.saved_tensors
        grad_rows = grad_output.reshape(-1, grad_output.shape[-1])  # (N, D)
        grad_features = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_features = linear(grad_output, weight.t())
        if ctx.needs_input_grad[1]:
            grad_weight = grad_rows.t() @ features.reshape(-1, features.shape[-1])
        if ctx.needs_input_grad[2]:
            grad_bias = grad_rows.sum(0)
        return grad_features, grad_weight, grad_bias


def _compute(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    operator = torch.ops.mkldnn._linear_pointwise.default
    return operator(features.contiguous(), weight, bias, "none", [], "")


def _suits_onednn(features: Tensor, weight: Tensor) -> bool:
    """Whether these are numbers in float32 on the CPU, and nobody records the operations."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return (
        not recorded
        and type(features) is Tensor
        and features.device.type == "cpu"
        and features.dtype == weight.dtype == torch.float32
        and features.numel() > 0
        and features.shape[-1] == weight.shape[-1]  # else PyTorch says what is wrong
        and not torch.is_autocast_enabled("cpu")
    )


@cache
def _onednn_is_faster() -> bool:
    try:
        processor = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        processor = platform.processor()
    return (
        "AuthenticAMD" in processor
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
