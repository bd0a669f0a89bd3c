"""Linear layers that use all of an AMD processor.

PyTorch computes float32 matrix products with MKL, which has no AVX-512 code for AMD's processors.
oneDNN, which PyTorch includes for convolutions, has.

Shapes: N rows (any leading dimensions), C input width, D output width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_adapter.layers.cpu.eager import is_observed, is_plain
from vit_adapter.ops.cpu_fast_paths import is_on


class Linear(nn.Linear):
    """:class:`torch.nn.Linear`, computed by :func:`linear`."""

    def forward(self, features: Tensor) -> Tensor:
        """(..., C) -> (..., D)."""
        return linear(features, self.weight, self.bias)


def linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """:func:`torch.nn.functional.linear` by the faster library; equal except for rounding.

    Args:
        features: (..., C).
        weight: (D, C).
        bias: (D,).

    Returns:
        (..., D).
    """
    if not is_on("linear") or not _suits_onednn(features, weight, bias):
        return F.linear(features, weight, bias)
    if torch.is_grad_enabled():
        return _OneDnnLinear.apply(features, weight, bias)
    return _compute(features, weight, bias)


class _OneDnnLinear(torch.autograd.Function):
    """The product and its gradients; the weight's gradient is as fast with MKL."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        needs_features, needs_weight, _ = ctx.needs_input_grad
        # As in PyTorch, a frozen weight keeps no input alive.
        ctx.save_for_backward(
            features if needs_weight else None, weight if needs_features else None
        )
        return _compute(features, weight, bias)

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
    bias = None if bias is None else bias.contiguous()  # oneDNN ignores the strides of a bias
    return operator(features.contiguous(), weight, bias, "none", [], "")


def _suits_onednn(features: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these are dense float32 tensors on the CPU whose shapes fit together."""
    if features.device.type != "cpu" or is_observed():
        return False
    tensors = (features, weight) if bias is None else (features, weight, bias)
    return (
        all(map(is_plain, tensors))
        and features.dim() > 0
        and weight.dim() == 2
        and (weight.is_contiguous() or weight.t().is_contiguous())
        and features.shape[-1] == weight.shape[1]  # otherwise PyTorch reports the error
        and (bias is None or bias.shape == weight.shape[:1])
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
    )
