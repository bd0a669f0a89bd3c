"""The operators ``vit_adapter::ms_deform_attn`` and its backward: kernels, shapes, gradients.

Registered with `torch.library`, so that autograd, `torch.compile`, `torch.export` and
`torch.func.vmap` see one opaque operator. A device has a kernel if and only if the compiled
extension has its symbols; there is no silent fallback at this level (`functional` chooses).

The operators take spatial shapes flattened to ``[H_0, W_0, H_1, W_1, ...]``, and locations and
weights in the dtype of the arithmetic: float64 for float64 values, float32 for all others.

Shapes: B batch, S value tokens, M heads, D channels per head, Q queries, L levels, P points.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vit_adapter.ops.extension import has_kernel, load_extension

__all__ = ["ms_deform_attn_op"]

FORWARD = "vit_adapter::ms_deform_attn"
BACKWARD = "vit_adapter::ms_deform_attn_backward"

torch.library.define(
    FORWARD,
    "(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, Tensor attention_weights)"
    " -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    BACKWARD,
    "(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations,"
    " Tensor attention_weights) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)

ms_deform_attn_op = torch.ops.vit_adapter.ms_deform_attn.default
_backward_op = torch.ops.vit_adapter.ms_deform_attn_backward.default


def _register_kernels() -> None:
    """Bind the extension's functions to the operators, device by device."""
    module = load_extension().module
    for device_type in ("cpu", "cuda"):
        if has_kernel(device_type):
            forward = getattr(module, f"ms_deform_attn_forward_{device_type}")
            backward = getattr(module, f"ms_deform_attn_backward_{device_type}")
            torch.library.impl(FORWARD, device_type, forward)
            torch.library.impl(BACKWARD, device_type, backward)


@torch.library.register_fake(FORWARD)
def _forward_fake(
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    batch, _, heads, dim = value.shape
    return value.new_empty(batch, sampling_locations.shape[1], heads * dim)


@torch.library.register_fake(BACKWARD)
def _backward_fake(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        value.new_empty(value.shape),
        sampling_locations.new_empty(sampling_locations.shape),
        attention_weights.new_empty(attention_weights.shape),
    )


def _save_inputs(
    ctx: torch.autograd.function.FunctionCtx,
    inputs: tuple[Tensor, Sequence[int], Tensor, Tensor],
    output: Tensor,
) -> None:
    value, spatial_shapes, sampling_locations, attention_weights = inputs
    ctx.save_for_backward(value, sampling_locations, attention_weights)
    ctx.spatial_shapes = spatial_shapes


def _differentiate(
    ctx: torch.autograd.function.FunctionCtx, grad_output: Tensor
) -> tuple[Tensor, None, Tensor, Tensor]:
    value, sampling_locations, attention_weights = ctx.saved_tensors
    grad_value, grad_locations, grad_weights = _backward_op(
        grad_output, value, ctx.spatial_shapes, sampling_locations, attention_weights
    )
    return grad_value, None, grad_locations, grad_weights


def _save_nothing(
    ctx: torch.autograd.function.FunctionCtx,
    inputs: tuple[Tensor, Tensor, Sequence[int], Tensor, Tensor],
    output: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Second derivatives are refused, so nothing is kept for them."""


def _refuse_second_order(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> None:
    raise RuntimeError(
        "ms_deform_attn can be differentiated once only; for second derivatives, set "
        "VIT_ADAPTER_FORCE_REFERENCE=1 and use float64 or float32 tensors"
    )


def _fold(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """Merge vmap's dimension into the batch: (size * B, ...)."""
    stacked = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return stacked.flatten(0, 1)


def _vmap(op: Callable[..., Any], shapes_position: int) -> Callable[..., tuple]:
    """Return the vmap rule of an operator whose tensors all start with the batch."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor | Sequence[int]) -> tuple:
        size = info.batch_size
        folded = [
            given if position == shapes_position else _fold(given, dim, size)
            for position, (given, dim) in enumerate(zip(inputs, in_dims, strict=True))
        ]
        batch = folded[0].shape[0] // size
        outputs = op(*folded)
        if isinstance(outputs, Tensor):
            return outputs.unflatten(0, (size, batch)), 0
        return tuple(output.unflatten(0, (size, batch)) for output in outputs), (0, 0, 0)

    return rule


torch.library.register_autograd(FORWARD, _differentiate, setup_context=_save_inputs)
torch.library.register_autograd(BACKWARD, _refuse_second_order, setup_context=_save_nothing)
if hasattr(torch.library, "register_vmap"):  # torch >= 2.5; before, vmap loops over the operator
    torch.library.register_vmap(FORWARD, _vmap(ms_deform_attn_op, shapes_position=1))
    torch.library.register_vmap(BACKWARD, _vmap(_backward_op, shapes_position=2))
_register_kernels()
