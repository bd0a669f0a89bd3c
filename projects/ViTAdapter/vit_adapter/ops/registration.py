"""The operators ``vit_adapter::ms_deform_attn`` and its backward: schemas, fake tensors, vmap.

Autograd, `torch.compile`, `torch.export` and `torch.func.vmap` see one opaque operator. Kernels and
gradients are in the compiled extension (``csrc/operators.cpp``), so that a call does not run Python
code. A device has a kernel if and only if the extension has its symbols; there is no silent
fallback at this level (`functional` chooses).

The operators take spatial shapes flattened to ``[H_0, W_0, H_1, W_1, ...]``, and locations and
weights in the dtype of the arithmetic: float64 for float64 values, float32 for all others.

Shapes: B batch, S value tokens, M heads, D channels per head, Q queries, L levels, P points.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vit_adapter.ops.arguments import check_arguments
from vit_adapter.ops.extension import load_extension

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


@torch.library.register_fake(FORWARD)
def _forward_fake(
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    pairs = list(zip(spatial_shapes[::2], spatial_shapes[1::2], strict=True))
    check_arguments(value, pairs, sampling_locations, attention_weights)
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


if hasattr(torch.library, "register_vmap"):  # torch >= 2.5; before, vmap loops over the operator
    torch.library.register_vmap(FORWARD, _vmap(ms_deform_attn_op, shapes_position=1))
    torch.library.register_vmap(BACKWARD, _vmap(_backward_op, shapes_position=2))
if (extension := load_extension().module) is not None:
    extension.register_operators()
